"""The planner: from a snapshot to a placement with its flow and its proof.

Candidates come from search at several depths (how short a range may be, as a share of what a peer
can hold): the flow is largest with short ranges, the latency smallest with long ones. Each finalist
gets its max flow; the objective chooses among them. A live placement is the start of the search,
and moving away from it costs.

Always: pure and deterministic for a seed and a number of steps. A clock, where one is passed, only
stops the search earlier; whatever is stopped, the best placement so far is complete and valid.
"""

from dataclasses import dataclass, field
from random import Random

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import Cancelled
from helix_p2p.planning.capacity import MTOKENS, Capacities, Ints, capacities_of
from helix_p2p.planning.cheapest import cheapest_flow
from helix_p2p.planning.cover_milp import MOST_COLUMNS, Solver, columns_of, tighten
from helix_p2p.planning.coverage import Layout, layout_of, value_of
from helix_p2p.planning.estimate import NOT_ESTIMATED, Estimate, estimate
from helix_p2p.planning.flow import Routing, route_flow
from helix_p2p.planning.moves import Moves
from helix_p2p.planning.options import Objective, OnProgress, PlanOptions, Progress
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.portfolio import Portfolio
from helix_p2p.planning.recreate import fetched_layers
from helix_p2p.planning.regions import region_splits
from helix_p2p.planning.replan import LEAST_GAIN, lost_tokens

__all__ = ["Objective", "OnProgress", "PlanOptions", "Progress", "plan"]

SHORTEST_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Depths that are tried besides the deepest; a quarter halves the hops for under 1 % of flow."""

LEAST_OF_GREEDY = 0.92
"""Finalists below this share of the greedy baseline are dropped; validators ask for 0.9."""

LEAST_WARM = 0.93
"""Below this share of the bound a warm start is not trusted alone, and a fresh search runs too."""

PEERS_PER_REGION = 20
"""Smaller regions lose too much flow: of 200 home peers, 7 regions of 22 and more lose 2.7 %."""

REGION_SPLITS = 3

POLISHED_PEERS = 64
"""Up to this many peers every finalist's flow is made the cheapest; beyond, only the chosen one's
and those of regions, whose point it is."""

FLOW_EXPONENT = 0.15
"""Ten percent of flow weigh 1.6 % of estimated throughput."""

WIDEST, WIDEST_PROOF = 64, 8192
"""Sweeps; the wide ones prove bounds, for those who ask for flow and give it time."""

STALE_POLISH_STEPS = 120

MANY_PEERS = 300
"""Beyond this the flows of the finalists take a second, which the search leaves them."""

LEAST_SOLVING_S = 2.0
"""Less is spent on starting the solver's process."""

POLISH_STEPS = 150
"""Without a deadline; each is a flow and an estimate, 2 to 6 ms."""


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
class _Finalist:
    layout: Layout
    routing: Routing
    estimate: Estimate
    name: str


@dataclass
class _Run:
    snapshot: Snapshot
    options: PlanOptions
    live: Placement | None
    on_progress: OnProgress | None
    began_s: float = field(init=False)
    capacities: Capacities = field(init=False)
    portfolio: Portfolio = field(init=False)
    held: Layout | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.began_s = self._now_s()
        self.capacities = capacities_of(self.snapshot)
        self.portfolio = Portfolio(
            self.snapshot,
            self.capacities,
            self.options.seed,
            self.options.steps,
            self._late,
            self.options.deadline_s is not None and self.options.clock is not None,
            self.options.objective == Objective.FLOW,
            self._report,
        )
        if self.live is not None:
            self.held = layout_of(self.capacities, self.live.assignments)

    def placement(self) -> Placement:
        portfolio = self.portfolio
        flow_only = self.options.objective == Objective.FLOW
        finalists = [self._finalist(portfolio.baseline, "greedy")]
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
        chosen = self._choose(finalists)
        if not flow_only and len(self.capacities.peers) <= POLISHED_PEERS:
            chosen = self._polished(chosen, finalists[0])
        routing = chosen.routing
        if not self._late(0.93):
            routing = cheapest_flow(self.snapshot, self.capacities, chosen.layout, known=routing)
        return Placement(
            assignments=chosen.layout.assignments(self.capacities),
            flows=routing.flows,
            value_mtokens_per_s=routing.value_mtokens_per_s,
            bound_mtokens_per_s=portfolio.bound,
            min_cut=routing.min_cut,
            solver=chosen.name,
            solve_s=self._now_s() - self.began_s,
            prices=portfolio.prices,
            bound_proof=portfolio.proof,
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

    def _warm(self, held: Layout, until: float) -> list[_Finalist]:
        """What is live, and what a few moves make of it."""
        found = [] if value_of(self.capacities, held) <= 0 else [self._finalist(held, "live")]
        layout = self.portfolio.recreate(held, until=until, held=held)
        if value_of(self.capacities, layout) > 0:
            found.append(self._finalist(layout, "warm-start"))
        return found

    def _over_links(self, portfolio: Portfolio) -> list[_Finalist]:
        flow_only = self.options.objective == Objective.FLOW
        starts = [portfolio.best, portfolio.baseline]
        met = portfolio.meet_links(starts, 0.95 if flow_only else 0.55)
        return [] if met is None else [self._finalist(met, "annealing")]

    def _shallower(self, portfolio: Portfolio) -> list[_Finalist]:
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

    def _regional(self, portfolio: Portfolio) -> list[_Finalist]:
        if self.held is not None:
            return []  # a live placement keeps its shape; regions would move nearly all of it
        splits = region_splits(self.snapshot, self.capacities)
        large = [s for s in splits if min(rows.size for rows in s) >= PEERS_PER_REGION]
        chosen = _spread(large, REGION_SPLITS) or splits[:1]
        found = []
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

    def _finalist(self, layout: Layout, name: str, *, polished: bool = False) -> _Finalist:
        routing = route_flow(self.snapshot, self.capacities, layout)
        if self.options.objective != Objective.FLOW and (
            polished or len(self.capacities.peers) <= POLISHED_PEERS
        ):
            routing = cheapest_flow(self.snapshot, self.capacities, layout, known=routing)
        if self.options.objective == Objective.FLOW:
            return _Finalist(layout, routing, NOT_ESTIMATED, name)
        guess = estimate(self.snapshot, layout.assignments(self.capacities), routing.flows)
        return _Finalist(layout, routing, guess, name)

    def _polished(self, start: _Finalist, baseline: _Finalist) -> _Finalist:
        """Small changes that the objective itself likes; so far layouts were found by flow."""
        moves = Moves(self.capacities, self.portfolio.bound, Random(self.options.seed))
        floor = LEAST_OF_GREEDY * baseline.routing.value_mtokens_per_s
        best, score, since = start, self._score(start), 0
        steps = self.options.steps or (1_000_000 if self.portfolio.timed else POLISH_STEPS)
        for step in range(steps):
            if step % 16 == 0:
                value = best.routing.value_mtokens_per_s
                self._report(
                    f"polishing for {self.options.objective}", value, self.portfolio.bound, step
                )
                if self._late(0.95) or since > STALE_POLISH_STEPS:
                    break
            since += 1
            layout = moves.changed(best.layout)
            if value_of(self.capacities, layout) < max(1, floor):
                continue
            proposed = self._finalist(layout, start.name)
            if proposed.routing.value_mtokens_per_s < max(1, floor):
                continue
            proposed_score = self._score(proposed)
            if proposed_score > score:
                best, score, since = proposed, proposed_score, 0
        return best

    def _choose(self, finalists: list[_Finalist]) -> _Finalist:
        floor = LEAST_OF_GREEDY * finalists[0].routing.value_mtokens_per_s
        good = [f for f in finalists if f.routing.value_mtokens_per_s >= max(1, floor)]
        if not good:
            good = [self._finalist(self.portfolio.best, self.portfolio.name)]
        return max(good, key=self._score)

    def _score(self, finalist: _Finalist) -> tuple[float, float]:
        flow = finalist.routing.value_mtokens_per_s / MTOKENS
        moved = self._moving_costs(finalist)
        if flow == 0:
            return (float("-inf"), 0.0)
        match Objective(self.options.objective):
            case Objective.FLOW:
                return (flow - moved, 0.0)
            case Objective.LATENCY:
                return (-finalist.estimate.light_token_s * (1 + moved / flow), flow)
            case Objective.THROUGHPUT:
                # A little for the flow: it is what holds when requests are not as assumed.
                share = flow * MTOKENS / max(1, self.portfolio.bound)
                served = finalist.estimate.throughput_tokens_per_s * share**FLOW_EXPONENT
                return (served - moved, flow)

    def _moving_costs(self, finalist: _Finalist) -> float:
        """Tokens per second that the migration costs, spread over the payback time."""
        held, layout = self.held, finalist.layout
        if self.live is None or held is None:
            return 0.0
        fetched = int(fetched_layers(held, layout.starts, layout.ends).sum())
        if fetched == 0:
            return 0.0
        proposed = Placement(
            assignments=layout.assignments(self.capacities),
            flows=(),
            value_mtokens_per_s=0,
            bound_mtokens_per_s=0,
            min_cut=finalist.routing.min_cut,
            solver="",
            solve_s=0.0,
        )
        rate = finalist.estimate.throughput_tokens_per_s
        if self.options.objective == Objective.FLOW:
            rate = finalist.routing.value_mtokens_per_s / MTOKENS
        lost = lost_tokens(self.snapshot, self.live, proposed, rate) / self.options.payback_s
        # A fifth of all layers and more must bring the least gain that is worth anything.
        share = fetched / max(1, int((held.ends - held.starts).sum()))
        return max(lost, LEAST_GAIN * rate * min(1.0, 5 * share))

    def _now_s(self) -> float:
        return 0.0 if self.options.clock is None else self.options.clock()

    def _late(self, share: float) -> bool:
        if self.options.cancelled is not None and self.options.cancelled():
            raise Cancelled("planning was cancelled")
        if self.options.deadline_s is None or self.options.clock is None:
            return False
        return self._now_s() - self.began_s >= self.options.deadline_s * share

    def _report(self, phase: str, incumbent: int, bound: int, steps: int) -> None:
        if self.on_progress is not None:
            elapsed = self._now_s() - self.began_s
            self.on_progress(Progress(phase, incumbent, bound, steps, elapsed))
