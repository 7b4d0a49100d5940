"""Annealing on the true max flow, for swarms where links between pairs of peers bind.

Coverage knows nothing of links. Where regions are joined by thin ones, a placement must also let
many pairs of peers meet at each layer where the flow changes hands. So the search starts from the
best cover and moves one or two ranges at a time, judged by the real max flow over real links; a
little of the coverage counts too, because the flow alone is flat almost everywhere.

Always: deterministic for a seed and a number of steps; the best layout only improves.
Source: design follows the reference search of docs/planning.md; Metropolis acceptance.
"""

import math
from dataclasses import dataclass, field
from random import Random

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import Capacities, Ints
from helix_p2p.planning.coverage import Layout, coverage
from helix_p2p.planning.flow import UNBOUND, link_widths
from helix_p2p.planning.moves import Moves

HEAT = 0.02
"""What suits swarms where one peer is a small part of the flow."""

HEATS = (0.02, 0.1, 0.4)
"""In a small swarm one move changes a third of the flow; which heat gets over that differs."""

HOT_PEERS = 16
"""Swarms up to this size take the heats in turn."""

COVERAGE_SHARE = 0.1


@dataclass
class LinkSearch:
    """A running annealing; `step` advances it.

    Args:
        snapshot: With its links.
        capacities: The table.
        start: Any layout.
        bound: No layout carries more.
        random: Its chance.
        steps: How many there will be, for cooling.
        heat: Accepted worsening at the start, as a share of the bound; it falls to a hundredth.
    """

    snapshot: Snapshot
    capacities: Capacities
    start: Layout
    bound: int
    random: Random
    steps: int
    heat: float = HEAT
    best: Layout = field(init=False)
    value: int = field(init=False)

    def __post_init__(self) -> None:
        self._widths = link_widths(self.snapshot, self.capacities)
        self._moves = Moves(self.capacities, self.bound, self.random)
        self._now = self.start
        self.best, self.value = self.start, self.flow_of(self.start)
        self._score = self._scored(self.start, self.value)
        self._done = 0

    def flow_of(self, layout: Layout) -> int:
        """Max flow over true links, thousandths of a token per second."""
        return _flow_value(self.capacities, layout, self._widths)

    def step(self) -> None:
        """Try one change."""
        self._done += 1
        proposed = self._moves.changed(self._now)
        covered = coverage(self.capacities, proposed)
        heat = self.heat * 0.01 ** (self._done / max(1, self.steps)) * self.bound
        chance = self.random.random()
        bar = self._score + heat * math.log(max(chance, 1e-300))
        # The flow never exceeds the coverage; what coverage rules out needs no max flow.
        if self._scored(proposed, int(covered.min())) < bar:
            return
        value = self.flow_of(proposed)
        score = self._scored(proposed, value)
        if score >= bar:
            self._now, self._score = proposed, score
            if value > self.value:
                self.best, self.value = proposed, value

    def _scored(self, layout: Layout, value: int) -> float:
        covered = np.minimum(coverage(self.capacities, layout), self.bound)
        return value + COVERAGE_SHARE * float(covered.mean())


def flow_value_of(snapshot: Snapshot, capacities: Capacities, layout: Layout) -> int:
    """The value of the max flow over true links, without its edges."""
    return _flow_value(capacities, layout, link_widths(snapshot, capacities))


def _flow_value(capacities: Capacities, layout: Layout, widths: Ints) -> int:
    layers = capacities.layers
    starts, ends = layout.starts, layout.ends
    carried = capacities.of_layout(starts, ends)
    most = min(UNBOUND, int(coverage(capacities, layout).min()))
    if most <= 0:
        return 0
    held = np.flatnonzero(carried > 0)
    low, high, room = starts[held], ends[held], np.minimum(carried[held], most)
    legal = (low > 0)[None] & (low[None] <= high[:, None]) & (high[:, None] < high[None])
    width = np.where(legal, widths[np.ix_(held, held)], 0)
    tails, heads = np.nonzero(width)
    count = held.size
    source, sink = 2 * count, 2 * count + 1
    inside = np.arange(count)
    first, last = np.flatnonzero(low == 0), np.flatnonzero(high == layers)
    limits = np.concatenate([room, room[first], room[last], np.minimum(width[tails, heads], most)])
    graph = csr_matrix(
        (
            limits.astype(np.int32),
            (
                np.concatenate(
                    [2 * inside, np.full(first.size, source), 2 * last + 1, 2 * tails + 1]
                ),
                np.concatenate([2 * inside + 1, 2 * first, np.full(last.size, sink), 2 * heads]),
            ),
        ),
        shape=(2 * count + 2, 2 * count + 2),
    )
    return int(maximum_flow(graph, source, sink, method="dinic").flow_value)
