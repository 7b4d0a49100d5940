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
        judge: What a placement really serves, e.g. `sim.rank.judge`'s replay; higher is better. It
            chooses among the finalists for throughput; None leaves that to the estimate.
        judged_moves: Changes of the chosen placement that the judge tries; 0 takes as many as the
            time allows, and none without a deadline.
        solver: For the flow objective with a deadline: tightens the bound of small swarms in a
            process of its own, e.g. `highs.solve`; None does without.
    """

    objective: str = Objective.THROUGHPUT
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


Judge = Callable[[Snapshot, Placement], float]
"""A placement's verdict: pure, deterministic, comparable between placements of one snapshot."""

OnProgress = Callable[[Progress], None]
