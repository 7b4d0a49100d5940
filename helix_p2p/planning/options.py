"""How to plan, and what is told while it goes on.

Always: plain values; a clock, a solver and the wish to cancel come in here and nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import ConfigError
from helix_p2p.planning.cover_milp import Solver
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.replan import PAYBACK_S

LATENCY_WEIGHT = 0.4
"""Twice (1 + seconds per token) weighs as much as a quarter of the throughput: more requests in
flight are served, but at the price of each other's waiting."""

MOST_LATENCY_WEIGHT = 10.0
"""Beyond, throughput is no longer asked for; that objective is `latency`."""


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
        latency_weight: For throughput: how much waiting counts. What is served is divided by
            (1 + seconds per token) to this power; 0 asks for throughput alone.
        seed: Of the search's chance.
        deadline_s: Stop by then; needs `clock`.
        clock: Monotonic seconds; None plans by steps alone, and is then reproducible.
        steps: Of search per depth; None takes what suits the size of the swarm.
        payback_s: Within which a migration must pay, when there is a live placement.
        cancelled: Asked between steps; True stops with `Cancelled`.
        judge: What a placement really serves, e.g. `sim.rank.judge`'s replays. It chooses
            among the finalists for throughput; None leaves that to the estimate.
        judged_moves: Changes of the chosen placement that the judge tries; 0 takes as many as the
            time allows, and none without a deadline.
        solver: For the flow objective with a deadline: tightens the bound of small swarms in a
            process of its own, e.g. `highs.solve`; None does without.
    """

    objective: str = Objective.THROUGHPUT
    latency_weight: float = LATENCY_WEIGHT
    seed: int = 0
    deadline_s: float | None = None
    clock: Callable[[], float] | None = None
    steps: int | None = None
    payback_s: float = PAYBACK_S
    cancelled: Callable[[], bool] | None = None
    judge: "Judge | None" = None
    judged_moves: int = 0
    solver: Solver | None = None

    def __post_init__(self) -> None:
        if self.objective not in set(Objective):
            raise ConfigError(
                f"objective {self.objective!r} is unknown",
                hint=f"one of {', '.join(Objective)}",
            )
        if not 0 <= self.latency_weight <= MOST_LATENCY_WEIGHT:
            raise ConfigError(
                f"a latency weight of {self.latency_weight} is not in 0 to {MOST_LATENCY_WEIGHT:g}"
            )


@dataclass(frozen=True, slots=True)
class Served:
    """What a placement serves, by a judge.

    Attributes:
        tokens_per_s: Of all requests together; 0 where nothing is served.
        token_s: Seconds per token of one request; only read where something is served.
    """

    tokens_per_s: float
    token_s: float


@dataclass(frozen=True, slots=True)
class Judge:
    """What placements really serve, where chance has a part in it.

    Attributes:
        serves: What a placement serves in a trial: pure, deterministic, comparable between
            placements of one snapshot in the same trial. What that is worth is for the objective
            to say. Trial 0 leads the search; it is asked for dozens of placements.
        finals: Trials from 1, which may be longer, for the few that lead at the end.
    """

    serves: Callable[[Snapshot, Placement, int], Served]
    finals: int = 0


OnProgress = Callable[[Progress], None]
