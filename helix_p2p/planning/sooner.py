"""A swarm's first plan, so that it serves soon: quick lines for every layer.

Nobody is served before each layer has a holder that has loaded it. Flow does not see that: of peers
with slow downlinks it likes to make first stages, where only token ids come in, and those load for
minutes. So two peers of the finished layout change places, one that is late with the layer that is
ready last and one with a quick line from elsewhere, again and again, while flow hardly falls.

Always: deterministic; the same ranges are held as before, by others; what is lost of the least
coverage is at most `MOST_LOST`; a layout whose layers are ready about together stays as it is.
"""

from dataclasses import dataclass, field

import numpy as np

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import Capacities, Floats, Ints
from helix_p2p.planning.coverage import Layout, coverage
from helix_p2p.planning.replan import ASSUMED_DOWNLINK_BYTES_PER_S
from helix_p2p.types import LayerRange

READY_WITH = 3
"""Holders that have loaded a layer make it ready: with one, everybody would wait for that one."""

EARLY, PATIENCE = 0.25, 1.5
"""A layer is late when it is ready so many times later than the first quarter of all are."""

MOST_LOST = 0.01
"""Of the least coverage. The search for a better plan follows when all is calm."""

MOST_EXCHANGES = 64
LATE_LOOKED_AT, QUICK_LOOKED_AT, PAIRS_TRIED = 8, 32, 8


def sooner(snapshot: Snapshot, capacities: Capacities, layout: Layout) -> Layout:
    """The layout with peers exchanged so that each layer is ready about when the others are."""
    exchange = _Exchange(snapshot, capacities, layout)
    for _ in range(MOST_EXCHANGES):
        if not exchange.step():
            break
    return exchange.layout


@dataclass
class _Exchange:
    snapshot: Snapshot
    capacities: Capacities
    layout: Layout
    rates: Floats = field(init=False)
    least: float = field(init=False)
    limit_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.rates = np.array(
            [p.downlink_bytes_per_s or ASSUMED_DOWNLINK_BYTES_PER_S for p in self.snapshot.peers]
        )
        self.least = (1 - MOST_LOST) * int(coverage(self.capacities, self.layout).min())
        early_s = np.quantile(self._ready_s(self.layout)[-1], EARLY)
        self.limit_s = PATIENCE * float(early_s)

    def step(self) -> bool:
        """One exchange, if there is one that helps."""
        ready_s = self._ready_s(self.layout)
        last = int(ready_s[-1].argmax())
        if not self.limit_s < ready_s[-1, last] < np.inf:
            return False
        lateness_s = self._lateness_s(ready_s)
        for late, quick in self._pairs(last, float(ready_s[-1, last])):
            tried = _exchanged(self.layout, late, quick)
            if self._lateness_s(self._ready_s(tried)) < lateness_s:
                self.layout = tried
                return True
        return False

    def _pairs(self, layer: int, ready_s: float) -> list[tuple[int, int]]:
        """Who could change places for a layer; first what keeps most coverage."""
        starts, ends = self.layout.starts, self.layout.ends
        holds = (starts <= layer) & (ends > layer)
        load_s = self._load_s(self.layout)
        late = np.flatnonzero(holds & (load_s >= ready_s))
        late = late[np.argsort(-load_s[late], kind="stable")][:LATE_LOOKED_AT]
        others = np.flatnonzero(~holds & (ends > starts))
        quick = others[np.argsort(-self.rates[others], kind="stable")][:QUICK_LOOKED_AT]
        found = []
        for one in late.tolist():
            for other in quick.tolist():
                if self.rates[other] <= self.rates[one]:
                    break
                tried = _exchanged(self.layout, one, other)
                if not self._fits(tried, one) or not self._fits(tried, other):
                    continue
                kept = int(coverage(self.capacities, tried).min())
                if kept >= self.least:
                    found.append((-kept, one, other))
        return [(one, other) for _, one, other in sorted(found)[:PAIRS_TRIED]]

    def _fits(self, layout: Layout, row: int) -> bool:
        held = LayerRange(int(layout.starts[row]), int(layout.ends[row]))
        return self.capacities.of(row, held) > 0

    def _load_s(self, layout: Layout) -> Floats:
        """[peers]: until each has what it is to hold."""
        model = self.snapshot.model
        size = (layout.ends - layout.starts) * float(model.layer_bytes)
        held = layout.ends > layout.starts
        size = size + np.where(held & (layout.starts == 0), model.embedding_bytes, 0)
        size = size + np.where(layout.ends == model.layers, model.head_bytes, 0)
        seconds: Floats = size / self.rates
        return seconds

    def _ready_s(self, layout: Layout) -> Floats:
        """[READY_WITH, L]: when the first, second … have loaded each layer.

        Where fewer hold it, the last of them stands for those that are missing.
        """
        at: Ints = np.arange(self.capacities.layers)
        holds = (layout.starts[:, None] <= at) & (layout.ends[:, None] > at)
        times = np.sort(np.where(holds, self._load_s(layout)[:, None], np.inf), axis=0)
        counted = np.minimum(np.arange(READY_WITH)[:, None], holds.sum(axis=0) - 1)
        ready_s: Floats = times[np.maximum(counted, 0), at]
        return ready_s

    def _lateness_s(self, ready_s: Floats) -> float:
        return float(np.maximum(0.0, ready_s - self.limit_s).sum())


def _exchanged(layout: Layout, one: int, other: int) -> Layout:
    """Two peers take each other's range."""
    starts, ends = layout.starts.copy(), layout.ends.copy()
    starts[[one, other]], ends[[one, other]] = starts[[other, one]], ends[[other, one]]
    return Layout(starts, ends)
