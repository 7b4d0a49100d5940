"""The planner: from a snapshot to a placement with its flow and its proof.

Candidates come from search at several depths (how short a range may be, as a share of what a peer
can hold): the flow is largest with short ranges, the latency smallest with long ones. Each finalist
gets its max flow; small swarms are then annealed on what they would serve. The objective chooses
among the finalists, or a judge does, where one is passed. A live placement is the start of the
search, and moving away from it costs.

Always: pure and deterministic for a seed and a number of steps. A clock, where one is passed, only
stops the search earlier; whatever is stopped, the best placement so far is complete and valid.
"""

from dataclasses import dataclass, field
from random import Random

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import Cancelled
from helix_p2p.planning.appraisal import Appraiser, Finalist, served_score
from helix_p2p.planning.capacity import Capacities, Ints, capacities_of
from helix_p2p.planning.chains import chain_layouts
from helix_p2p.planning.cover_milp import MOST_COLUMNS, Solver, columns_of, tighten
from helix_p2p.planning.coverage import Layout, value_of
from helix_p2p.planning.hubs import hub_layouts
from helix_p2p.planning.judging import Judging
from helix_p2p.planning.options import Objective, OnProgress, PlanOptions, Progress
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.portfolio import Portfolio
from helix_p2p.planning.regions import kind_split, region_splits
from helix_p2p.planning.service import ServiceSearch
from helix_p2p.planning.sooner import sooner

__all__ = ["Objective", "OnProgress", "PlanOptions", "Progress", "plan"]

SHORTEST_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Depths that are tried besides the deepest; a quarter halves the hops for under 1 % of flow."""

LEAST_WARM = 0.93
"""Below this share of the bound a warm start is not trusted alone, and a fresh search runs too."""

PEERS_PER_REGION = 20
"""Smaller regions lose too much flow: of 200 home peers, 7 regions of 22 and more lose 2.7 %."""

REGION_SPLITS = 3

SERVED_PEERS = 64
"""Up to this many peers placements are annealed on what they would serve, and every finalist's flow
is made the cheapest; beyond, only the chosen one's and those of regions, whose point it is."""

SEARCHED_SHARE = 0.4
"""Of the time for the searches by flow where service is annealed afterwards."""

ANNEALED_SHARE = 0.7
"""Of the time until which service is annealed where a judge comes after it."""

JUDGED_SHARE = 0.9
"""Of the time until which changes are judged; finals come after it."""

SERVICE_STARTS = 2
"""Finalists from which service is annealed; with more each gets less time and ends worse."""

SERVICE_STEPS = 300
"""Of each annealing without a deadline and without `steps`; 2 ms each at 24 peers."""

TIMED_SERVICE_STEPS = 1500
"""With a deadline; where a judge waits, who asked for it has time, and gets twice as many."""

MOST_MOVES = 1_000_000

WIDEST, WIDEST_PROOF = 64, 8192
"""Sweeps; the wide ones prove bounds, for those who ask for flow and give it time."""

MANY_PEERS = 300
"""Beyond this the flows of the finalists take a second, which the search leaves them."""

LEAST_SOLVING_S = 2.0
"""Less is spent on starting the solver's process."""

_DEFAULT = PlanOptions()


def plan(
    snapshot: Snapshot,
    options: PlanOptions = _DEFAULT,
    live: Placement | None = None,
    on_progress: OnProgress | None = None,
) -> Placement:
    """Find the best placement of a swarm.

    Args:
        snapshot: Model, peers, links.
        options: Objective, seed, deadline.
        live: What is served now; the search starts there and keeps what it can.
        on_progress: Told of incumbent, bound and gap now and then.

    Returns:
        A placement that covers every layer, with flows, min cut and bound.

    Raises:
        SwarmTooSmall: The peers together cannot hold the model.
        Cancelled: `options.cancelled` said so.
    """
    return _Run(snapshot, options, live, on_progress).placement()


def _spread(splits: list[list[Ints]], count: int) -> list[list[Ints]]:
    """The first, the last and what lies evenly between."""
    if len(splits) <= count:
        return splits
    return [splits[round(n * (len(splits) - 1) / (count - 1))] for n in range(count)]


@dataclass
class _Run:
    snapshot: Snapshot
    options: PlanOptions
    live: Placement | None
    on_progress: OnProgress | None
    began_s: float = field(init=False)
    capacities: Capacities = field(init=False)
    portfolio: Portfolio = field(init=False)
    appraiser: Appraiser = field(init=False)
    flow_only: bool = field(init=False)
    served: bool = field(init=False)

    def __post_init__(self) -> None:
        self.began_s = self._now_s()
        self.capacities = capacities_of(self.snapshot)
        objective = Objective(self.options.objective)
        self.flow_only = objective is Objective.FLOW
        self.served = not self.flow_only and len(self.capacities.peers) <= SERVED_PEERS
        self.portfolio = Portfolio(
            self.snapshot,
            self.capacities,
            self.options.seed,
            self.options.steps,
            self._late,
            self.options.deadline_s is not None and self.options.clock is not None,
            self.flow_only,
            self._report,
        )
        self.appraiser = Appraiser(
            self.snapshot,
            self.capacities,
            objective,
            self.portfolio.baseline,
            self.live,
            self.options.payback_s,
            self.options.latency_weight,
        )

    @property
    def held(self) -> Layout | None:
        return self.appraiser.held

    def placement(self) -> Placement:
        portfolio, flow_only = self.portfolio, self.flow_only
        finalists = [self.appraiser.greedy]
        if self.held is not None:
            finalists += self._warm(self.held, 0.85 if flow_only else 0.6)
        warm = max((f.routing.value_mtokens_per_s for f in finalists[1:]), default=0)
        if warm < LEAST_WARM * portfolio.bound:
            timed_proof = flow_only and portfolio.timed
            many = len(self.capacities.peers) > MANY_PEERS
            half = 0.5 if self._solver_for(portfolio) is not None else 0.85 if many else 0.9
            portfolio.find_flow(
                half if flow_only and self.held is None else 0.35,
                widest=WIDEST_PROOF if timed_proof else WIDEST,
            )
            self._tighten(portfolio)
            finalists.append(self._finalist(portfolio.best, portfolio.name))
            finalists += self._over_links(portfolio)
        if not flow_only:
            finalists += self._shallower(portfolio)
            finalists += self._regional(portfolio)
        best = self.appraiser.ranked(finalists)
        if not best:
            best = [self._finalist(portfolio.best, portfolio.name)]
        if self.served:
            best = self.appraiser.ranked([*best, *self._by_service(best)])
        return self._judged(best)

    def _by_service(self, best: list[Finalist]) -> list[Finalist]:
        """Anneal on what is served, from the live placement or the best so far."""
        live = [one for one in best if one.name == "live"]
        starts = [*live, *(one for one in best if one.name != "live")][:SERVICE_STARTS]
        patience = 1 if self.options.judge is None else 2
        steps = self.options.steps or patience * (
            TIMED_SERVICE_STEPS if self.portfolio.timed else SERVICE_STEPS
        )
        until = 0.95 if self.options.judge is None else ANNEALED_SHARE
        found = []
        for number, start in enumerate(starts):
            begin = self._gone()
            end = begin + (until - begin) / (len(starts) - number)
            search = ServiceSearch(
                self.capacities,
                start.layout,
                self.portfolio.bound,
                self.appraiser.service_of,
                Random(self.options.seed * 15_485_863 + number),
            )
            for step in range(steps):
                gone = self._gone()
                if gone >= end:
                    break
                if step % 16 == 0:
                    value = start.routing.value_mtokens_per_s
                    self._report(f"annealing on service {number + 1}", value, search.bound, step)
                by_time = (gone - begin) / (end - begin) if self.portfolio.timed else 0.0
                search.step(max(step / steps, by_time))
            found.append(self.appraiser.cheapest(self._finalist(search.best, "service")))
        return found

    def _judged(self, best: list[Finalist]) -> Placement:
        """The placement of the best, or of the one that the judge prefers."""
        judge = self.options.judge
        if judge is None or self.options.objective != Objective.THROUGHPUT:
            chosen = best[0]
            if self.live is None and not self.flow_only:
                chosen = self._serving_soon(chosen)
            if not self._late(0.93):
                chosen = self.appraiser.cheapest(chosen)
            return self._placement(chosen)

        def trial(one: Finalist, number: int) -> float:
            served = judge.serves(self.snapshot, self._placement(one), number)
            return served_score(served.tokens_per_s, served.token_s, self.options.latency_weight)

        judging = Judging(self.appraiser, trial, judge.finals, lambda: self._gone() >= 1)
        judging.compare(best)
        moves = self.options.judged_moves or (MOST_MOVES if self.portfolio.timed else 0)
        random = Random(self.options.seed * 32_452_843)
        judging.improve(
            moves, self.portfolio.bound, random, self._report, lambda: self._gone() >= JUDGED_SHARE
        )
        judging.decide()
        return self._placement(judging.best)

    def _serving_soon(self, chosen: Finalist) -> Finalist:
        """A large swarm's first plan with quick lines at every layer; a small one has no choice."""
        if len(self.capacities.peers) <= SERVED_PEERS:
            return chosen
        layout = sooner(self.snapshot, self.capacities, chosen.layout)
        if layout is chosen.layout:
            return chosen
        one = self.appraiser.finalist(layout, chosen.name)
        return one if self.appraiser.legal(one) else chosen

    def _placement(self, chosen: Finalist) -> Placement:
        routing = chosen.routing
        return Placement(
            assignments=chosen.layout.assignments(self.capacities),
            flows=routing.flows,
            value_mtokens_per_s=routing.value_mtokens_per_s,
            bound_mtokens_per_s=self.portfolio.bound,
            min_cut=routing.min_cut,
            solver=chosen.name,
            solve_s=self._now_s() - self.began_s,
            prices=self.portfolio.prices,
            bound_proof=self.portfolio.proof,
        )

    def _solver_for(self, portfolio: Portfolio) -> Solver | None:
        fits = columns_of(self.capacities) <= MOST_COLUMNS
        wanted = self.options.objective == Objective.FLOW and portfolio.timed and self.held is None
        return self.options.solver if fits and wanted else None

    def _tighten(self, portfolio: Portfolio) -> None:
        solver, deadline_s = self._solver_for(portfolio), self.options.deadline_s
        if solver is None or deadline_s is None or portfolio.value >= portfolio.bound:
            return
        left_s = 0.9 * deadline_s - (self._now_s() - self.began_s)
        if left_s < LEAST_SOLVING_S:
            return
        self._report("HiGHS on the cover", portfolio.value, portfolio.bound, 0)
        found = tighten(
            self.capacities,
            portfolio.best,
            portfolio.bound,
            solver,
            left_s,
            stop=self.options.cancelled,
        )
        portfolio.offer(found.layout, "highs")
        portfolio.tighten(found.bound, "highs")
        self._report(found.said, portfolio.value, portfolio.bound, 0)

    def _warm(self, held: Layout, until: float) -> list[Finalist]:
        """What is live, and what a few moves make of it."""
        found = [] if value_of(self.capacities, held) <= 0 else [self._finalist(held, "live")]
        layout = self.portfolio.recreate(held, until=until, held=held)
        if value_of(self.capacities, layout) > 0:
            found.append(self._finalist(layout, "warm-start"))
        return found

    def _over_links(self, portfolio: Portfolio) -> list[Finalist]:
        flow_only = self.options.objective == Objective.FLOW
        starts = [portfolio.best, portfolio.baseline]
        met = portfolio.meet_links(starts, 0.95 if flow_only else 0.55)
        return [] if met is None else [self._finalist(met, "annealing")]

    def _shallower(self, portfolio: Portfolio) -> list[Finalist]:
        found = []
        for number, share in enumerate(SHORTEST_SHARES):
            if self._late(0.6):
                break
            until = 0.35 + 0.25 * (number + 1) / len(SHORTEST_SHARES)
            layout = portfolio.recreate(
                portfolio.best,
                until=until,
                held=self.held,
                shortest_share=share,
                number=number + 1,
            )
            if value_of(self.capacities, layout) > 0:
                found.append(self._finalist(layout, "ruin-and-recreate"))
        return found

    def _regional(self, portfolio: Portfolio) -> list[Finalist]:
        if self.held is not None:
            return []  # a live placement keeps its shape; regions would move nearly all of it
        splits = region_splits(self.snapshot, self.capacities)
        large = [s for s in splits if min(rows.size for rows in s) >= PEERS_PER_REGION]
        chosen = _spread(large, REGION_SPLITS) or splits[:1]
        found = []
        if self.served:
            hubs = hub_layouts(self.snapshot, self.capacities)
            found += [self._finalist(layout, "hub") for layout in hubs]
            by_kind = kind_split(self.snapshot, self.capacities)
            chosen = [*chosen, by_kind] if by_kind else chosen
            chains = chain_layouts(self.capacities, chosen)
            found += [self._finalist(layout, "chains") for layout in chains]
        for number, split in enumerate(chosen):
            begin, until = (0.6 + 0.3 * (number + more) / len(chosen) for more in (0, 1))
            if self._late(until):
                break
            layout = portfolio.per_region(
                split, begin=begin, until=until, shortest_share=SHORTEST_SHARES[0]
            )
            if value_of(self.capacities, layout) > 0:
                found.append(self._finalist(layout, f"{len(split)} regions", polished=True))
        return found

    def _finalist(self, layout: Layout, name: str, *, polished: bool = False) -> Finalist:
        one = self.appraiser.finalist(layout, name)
        if not self.flow_only and (polished or self.served):
            return self.appraiser.cheapest(one)
        return one

    def _now_s(self) -> float:
        return 0.0 if self.options.clock is None else self.options.clock()

    def _gone(self) -> float:
        """Share of the time that is over; 0 for ever without a clock."""
        if self.options.cancelled is not None and self.options.cancelled():
            raise Cancelled("planning was cancelled")
        if self.options.deadline_s is None or self.options.clock is None:
            return 0.0
        return (self._now_s() - self.began_s) / max(1e-9, self.options.deadline_s)

    def _late(self, share: float) -> bool:
        """Whether this share of the time for searches by flow is over."""
        return self._gone() >= share * (SEARCHED_SHARE if self.served else 1.0)

    def _report(self, phase: str, incumbent: int, bound: int, steps: int) -> None:
        if self.on_progress is not None:
            elapsed = self._now_s() - self.began_s
            self.on_progress(Progress(phase, incumbent, bound, steps, elapsed))
