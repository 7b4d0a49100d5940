"""What the planner's measurements share: options by the wall clock, tokens, a stopwatch."""

import time
from collections.abc import Callable

from helix_p2p.planning.capacity import MTOKENS
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import Objective, PlanOptions


def flow_options(deadline_s: float, objective: Objective = Objective.FLOW) -> PlanOptions:
    """Plan for this objective, at most so long, by the wall clock."""
    return PlanOptions(objective=objective, deadline_s=deadline_s, clock=time.monotonic)


def tokens(placement: Placement) -> float:
    """Flow in tokens/s."""
    return placement.value_mtokens_per_s / MTOKENS


def timed(make: Callable[[], Placement]) -> tuple[Placement, float]:
    """A placement and the seconds it took, start to end."""
    before = time.perf_counter()
    made = make()
    return made, time.perf_counter() - before
