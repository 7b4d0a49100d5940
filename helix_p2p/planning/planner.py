"""The planner: from a snapshot to a placement with its flow and its proof.

Candidates come from search at several depths (how short a range may be, as a share of what a peer
can hold): the flow is largest with short ranges, the latency smallest with long ones. Each finalist
gets its max flow; the objective chooses among them. A live placement is the start of the search,
and moving away from it costs.

Always: pure and deterministic for a seed and a number of steps. A clock, where one is passed, only
stops the search earlier; whatever is stopped, the best placement so far is complete and valid.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import Cancelled, ConfigError
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import MTOKENS, Capacities, capacities_of
from helix_p2p.planning.coverage import Layout, layout_of, some_cover, value_of
from helix_p2p.planning.estimate import Estimate, estimate
from helix_p2p.planning.flow import Routing, route_flow
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.recreate import Search, fetched_layers, greedy_baseline
from helix_p2p.planning.replan import PAYBACK_S, lost_tokens

SHORTEST_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Depths that are tried; a quarter halves the hops for under 1 % of flow at 200 peers."""

LEAST_OF_GREEDY = 0.92
"""Finalists below this share of the greedy baseline are dropped; validators ask for 0.9."""

MOVE_WEIGHT = 0.3
"""A fetched layer must bring this much more than an average held one."""


class Objective(StrEnum):
    """What is to be best."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    FLOW = "flow"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the search is.

    Attributes:
        phase: What it is doing.
        incumbent_mtokens_per_s: Flow of the best placement so far.
        bound_mtokens_per_s: No placement carries more.
        steps: Done in this phase.
        elapsed_s: By the passed clock; 0 without one.
    """

    phase: str
    incumbent_mtokens_per_s: int
    bound_mtokens_per_s: int
    steps: int
    elapsed_s: float

    @property
    def gap(self) -> float:
        """(bound - incumbent) / bound."""
        if self.bound_mtokens_per_s <= 0:
            return 0.0
        return max(0.0, 1 - self.incumbent_mtokens_per_s / self.bound_mtokens_per_s)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How to plan.

    Attributes:
        objective: What is to be best.
        seed: Of the search's chance.
        deadline_s: Stop by then; needs `clock`.
        clock: Monotonic seconds; None plans by steps alone, and is then reproducible.
        steps: Of search per depth; None takes what suits the size of the swarm.
        payback_s: Within which a migration must pay, when there is a live placement.
        cancelled: Asked between steps; True stops with `Cancelled`.
    """

    objective: str = Objective.THROUGHPUT
    seed: int = 0
    deadline_s: float | None = None
    clock: Callable[[], float] | None = None
    steps: int | None = None
    payback_s: float = PAYBACK_S
    cancelled: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        if self.objective not in set(Objective):
            raise ConfigError(
                f"objective {self.objective!r} is unknown",
                hint=f"one of {', '.join(Objective)}",
            )


OnProgress = Callable[[Progress], None]
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
    bound: int = field(init=False)

    def __post_init__(self) -> None:
        self.began_s = self._now_s()
        self.capacities = capacities_of(self.snapshot)
        self.bound = upper_bound(self.capacities)

    def placement(self) -> Placement:
        fallback = some_cover(self.snapshot.model, self.capacities)
        baseline = greedy_baseline(self.capacities, self.bound)
        held = None if self.live is None else layout_of(self.capacities, self.live.assignments)
        finalists = [self._finalist(fallback, "cover"), self._finalist(baseline, "greedy")]
        if held is not None and value_of(self.capacities, held) > 0:
            finalists.append(self._finalist(held, "live"))
        flow_only = self.options.objective == Objective.FLOW
        shares = (0.0,) if flow_only else SHORTEST_SHARES
        for number, share in enumerate(shares):
            start = held if held is not None else self._better(fallback, baseline)
            layout = self._search(start, held, share, number, len(shares))
            finalists.append(self._finalist(layout, "ruin-and-recreate"))
            if self._late(1.0):
                break
        chosen = self._choose(finalists)
        return Placement(
            assignments=chosen.layout.assignments(self.capacities),
            flows=chosen.routing.flows,
            value_mtokens_per_s=chosen.routing.value_mtokens_per_s,
            bound_mtokens_per_s=self.bound,
            min_cut=chosen.routing.min_cut,
            solver=chosen.name,
            solve_s=self._now_s() - self.began_s,
        )

    def _search(
        self, start: Layout, held: Layout | None, share: float, number: int, of: int
    ) -> Layout:
        search = Search(
            self.capacities,
            start,
            self.bound,
            Random(self.options.seed * 1_000_003 + number),
            held=held,
            move_penalty=self._move_penalty(held),
            shortest_share=share,
            most_lengths=0 if len(self.capacities.peers) <= 64 else 16,
        )
        steps = self.options.steps or 300 + 30 * len(self.capacities.peers)
        for step in range(steps):
            if search.done:
                break
            if step % 32 == 0:
                self._report(f"search {number + 1} of {of}", search.value, step)
                if self._late((number + 1) / of):
                    break
            search.step()
        return search.best

    def _move_penalty(self, held: Layout | None) -> float:
        if held is None:
            return 0.0
        layers = int((held.ends - held.starts).sum())
        return MOVE_WEIGHT * self.bound * self.capacities.layers / max(1, layers)

    def _better(self, one: Layout, other: Layout) -> Layout:
        return max(one, other, key=lambda layout: value_of(self.capacities, layout))

    def _finalist(self, layout: Layout, name: str) -> _Finalist:
        routing = route_flow(self.snapshot, self.capacities, layout)
        guess = estimate(self.snapshot, layout.assignments(self.capacities), routing.flows)
        return _Finalist(layout, routing, guess, name)

    def _choose(self, finalists: list[_Finalist]) -> _Finalist:
        floor = LEAST_OF_GREEDY * finalists[1].routing.value_mtokens_per_s
        good = [f for f in finalists if f.routing.value_mtokens_per_s >= max(1, floor)]
        return max(good or finalists, key=self._score)

    def _score(self, finalist: _Finalist) -> tuple[float, float]:
        flow = finalist.routing.value_mtokens_per_s / MTOKENS
        moved = self._moving_costs(finalist)
        if flow == 0:
            return (float("-inf"), 0.0)
        match Objective(self.options.objective):
            case Objective.FLOW:
                return (flow - moved, -finalist.estimate.mean_stages)
            case Objective.LATENCY:
                return (-finalist.estimate.light_token_s * (1 + moved / flow), flow)
            case Objective.THROUGHPUT:
                return (finalist.estimate.throughput_tokens_per_s - moved, flow)

    def _moving_costs(self, finalist: _Finalist) -> float:
        """Tokens per second that the migration costs, spread over the payback time."""
        if self.live is None:
            return 0.0
        held = layout_of(self.capacities, self.live.assignments)
        layout = finalist.layout
        if not fetched_layers(held, layout.starts, layout.ends).any():
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
        return lost_tokens(self.snapshot, self.live, proposed, rate) / self.options.payback_s

    def _now_s(self) -> float:
        return 0.0 if self.options.clock is None else self.options.clock()

    def _late(self, share: float) -> bool:
        if self.options.cancelled is not None and self.options.cancelled():
            raise Cancelled("planning was cancelled")
        if self.options.deadline_s is None or self.options.clock is None:
            return False
        return self._now_s() - self.began_s >= self.options.deadline_s * share

    def _report(self, phase: str, incumbent: int, steps: int) -> None:
        if self.on_progress is not None:
            elapsed = self._now_s() - self.began_s
            self.on_progress(Progress(phase, incumbent, self.bound, steps, elapsed))
