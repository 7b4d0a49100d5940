"""The searches behind the planner, run one after another on a budget.

Which one finds the best cover depends on the swarm: the sweep for few peers or few kinds of them,
ruin and recreate for many, annealing on the true flow where links bind. Each starts from the best
so far and hands on what it found and what it proved.

Always: `best` covers every layer; `bound` is proven by `proof`; without a clock the outcome depends
on the seed alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import numpy as np

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.bound import dual_prices, upper_bound
from helix_p2p.planning.capacity import Capacities, Ints
from helix_p2p.planning.coverage import Layout, some_cover, value_of
from helix_p2p.planning.flow import links_may_bind
from helix_p2p.planning.links import HEATS, HOT_PEERS, LinkSearch
from helix_p2p.planning.recreate import Search, greedy, greedy_baseline
from helix_p2p.planning.sweep import search_by_sweeps

SWEEP_PEERS = 12
"""Up to this many peers a narrow sweep takes a second or two, however different they are."""

SWEEP_PEERS_OF_FEW_KINDS = 64

FEW_KINDS = 8
"""With so few kinds of peers wide sweeps stay cheap, and their failures prove bounds."""

WIDE_SWEEPS = ((64, 1e-3), (512, 1e-3), (2048, 0.0), (8192, 0.0))
"""Width and accuracy; the last ones prove optimality where anything does."""

LINK_STEPS = 10_000
"""Of one annealing; 24 peers take 3 to 4 s for them."""

SMALL_LINK_STEPS = 400
"""A small swarm gains more from starting again."""

LINKS_BIND = 0.995
"""Below this share of the coverage the links are what holds the flow down."""

MOVE_WEIGHT = 0.3
"""A fetched layer must bring this much more than an average held one."""

STALE_STEPS, STALE_STEPS_PER_PEER = 1500, 100
"""Without any gain for so long a search has found what it will find; 0.3 s for 6 peers."""

FLOW_PATIENCE = 20
"""Times as long, for those who ask for flow alone and wait for it."""

STALE_ANNEALINGS = 4

Late = Callable[[float], bool]
Report = Callable[[str, int, int, int], None]


@dataclass
class Portfolio:
    """Searches over one swarm.

    Args:
        snapshot: The swarm.
        capacities: Its table.
        seed: Of all chance.
        steps: Of ruin and recreate in each search; None for what suits the size.
        late: Whether a share of the time is over; false for ever without a clock.
        timed: Whether there is a deadline; then searches go on until it is near.
        patient: Whether to use the time even where little is gained any more.
        report: Told of (phase, value, bound, steps).
    """

    snapshot: Snapshot
    capacities: Capacities
    seed: int
    steps: int | None
    late: Late
    timed: bool
    patient: bool
    report: Report
    bound: int = field(init=False)
    proof: str = field(init=False, default="prices")
    prices: tuple[int, ...] = field(init=False, default=())
    best: Layout = field(init=False)
    baseline: Layout = field(init=False)
    name: str = field(init=False, default="greedy")

    def __post_init__(self) -> None:
        self.best = some_cover(self.snapshot.model, self.capacities)
        loose = upper_bound(self.capacities)
        self.baseline = greedy_baseline(self.capacities, loose)
        self.prices = dual_prices(self.capacities, loose)
        self.bound = self._price_bound = upper_bound(self.capacities, self.prices)
        self.offer(self.baseline, "greedy")
        self.offer(greedy(self.capacities, self.bound, self.prices), "greedy")

    @property
    def value(self) -> int:
        """Least coverage of the best layout."""
        return value_of(self.capacities, self.best)

    def offer(self, layout: Layout | None, name: str) -> None:
        """Take a layout if it is better than the best."""
        if layout is not None and value_of(self.capacities, layout) > self.value:
            self.best, self.name = layout, name

    def find_flow(self, until: float, *, widest: int) -> None:
        """Look for the largest coverage until a share of the time is over.

        Args:
            until: Share of the time.
            widest: Of the sweeps; wide ones are for proofs, which cost more than they improve.
        """
        few_kinds = int(self.capacities.kind.max()) < FEW_KINDS
        sweepable = SWEEP_PEERS_OF_FEW_KINDS if few_kinds else SWEEP_PEERS
        if len(self.capacities.peers) <= sweepable:
            self._sweep(8, 1e-3, until * 0.4)
        if self.value < self.bound:
            share = until * (0.6 if few_kinds else 1.0)
            self.offer(self.recreate(self.best, until=share), "ruin-and-recreate")
        if not few_kinds:
            return
        for width, accuracy in WIDE_SWEEPS:
            if self.value >= self.bound or self.late(until) or width > widest:
                return
            self._sweep(width, accuracy, until)

    def _sweep(self, width: int, accuracy: float, until: float) -> None:
        found = search_by_sweeps(
            self.capacities,
            self.value,
            self.bound,
            width,
            lambda: self.late(until),
            accuracy=accuracy,
            on_value=lambda value, bound: self.report(f"sweep of width {width}", value, bound, 0),
        )
        self.offer(found.layout, "sweep")
        self.tighten(found.bound, "sweep")

    def tighten(self, bound: int, proof: str) -> None:
        """Take a lower bound that a search proved."""
        if bound < self.bound:
            self.bound = bound
            # What rounding alone can explain needs no other proof than the prices.
            if bound < self._price_bound - 1:
                self.proof = proof
            else:
                self.bound = self._price_bound

    def recreate(
        self,
        start: Layout,
        *,
        until: float,
        held: Layout | None = None,
        shortest_share: float = 0.0,
        number: int = 0,
    ) -> Layout:
        """Ruin and recreate from a layout, until a share of the time is over or steps are done."""
        search = Search(
            self.capacities,
            start,
            self.bound,
            Random(self.seed * 1_000_003 + number),
            held=held,
            move_penalty=self._move_penalty(held),
            shortest_share=shortest_share,
            prices=self.prices,
        )
        self._run(search, f"search {number + 1}", until)
        return search.best

    def _run(self, search: Search, phase: str, until: float) -> None:
        peers = len(search.capacities.peers)
        steps = self.steps or (1_000_000_000 if self.timed else 400 + 20 * peers)
        patience = (STALE_STEPS + STALE_STEPS_PER_PEER * peers) * (
            FLOW_PATIENCE if self.patient else 1
        )
        best, since = search.value, 0
        for step in range(steps):
            since = 0 if search.value > best else since + 1
            best = max(best, search.value)
            if search.done or since > patience:
                return
            if step % 64 == 0:
                self.report(phase, search.value, self.bound, step)
                if self.late(until):
                    return
            search.step()

    def _move_penalty(self, held: Layout | None) -> float:
        if held is None:
            return 0.0
        layers = int((held.ends - held.starts).sum())
        return MOVE_WEIGHT * self.bound * self.capacities.layers / max(1, layers)

    def meet_links(self, starts: list[Layout], until: float) -> Layout | None:
        """Anneal on the true flow where links hold it down; None where they do not."""
        if not links_may_bind(self.snapshot):
            return None
        best: LinkSearch | None = None
        stale = 0
        small = len(self.capacities.peers) <= HOT_PEERS
        heats = HEATS if small else HEATS[:1]
        patience = len(heats) * STALE_ANNEALINGS
        for number in range(1000 if self.timed else 2):
            search = LinkSearch(
                self.snapshot,
                self.capacities,
                starts[number % len(starts)],
                self.bound,
                Random(self.seed * 7_919 + number),
                self.steps or (SMALL_LINK_STEPS if small else LINK_STEPS),
                heats[number % len(heats)],
            )
            if number == 0 and search.value >= LINKS_BIND * self.value:
                return None
            for step in range(search.steps):
                if step % 64 == 0:
                    value = max(search.value, 0 if best is None else best.value)
                    self.report(f"annealing on links {number + 1}", value, self.bound, step)
                    if self.late(until):
                        break
                search.step()
            stale += 1
            if best is None or search.value > best.value:
                best, stale = search, 0
            if self.late(until) or stale == patience:
                break
        return None if best is None else best.best

    def per_region(
        self, regions: list[Ints], *, begin: float, until: float, shortest_share: float
    ) -> Layout:
        """Plan each region for itself, between two shares of the time, side by side."""
        count = len(self.capacities.peers)
        starts, ends = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        for number, rows in enumerate(regions):
            peers = tuple(self.capacities.peers[int(row)] for row in rows)
            part = Capacities(self.capacities.layers, peers, self.capacities.mtokens_per_s[rows])
            loose = upper_bound(part)
            prices = dual_prices(part, loose)
            bound = upper_bound(part, prices)
            start, filled = some_cover(self.snapshot.model, part), greedy(part, bound, prices)
            if value_of(part, filled) > value_of(part, start):
                start = filled
            search = Search(
                part,
                start,
                bound,
                Random(self.seed * 104_729 + number),
                shortest_share=shortest_share,
                prices=prices,
            )
            done = (number + 1) / len(regions)
            self._run(
                search, f"region {number + 1} of {len(regions)}", begin + (until - begin) * done
            )
            found = search.best if search.value > 0 else start
            starts[rows], ends[rows] = found.starts, found.ends
        return Layout(starts, ends)
