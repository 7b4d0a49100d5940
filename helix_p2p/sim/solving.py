"""The planner's work in virtual time: the production search, and how long it would have taken.

Always: what is found depends on the job alone; a search takes `SEARCH_S`, a repair `REPAIR_S`,
whatever this machine needed for them.
"""

from dataclasses import dataclass

from helix_p2p.errors import HelixError
from helix_p2p.membership.effects import StartPlanning
from helix_p2p.planning.options import PlanOptions
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.work import Work, carry_out

SEARCH_S, REPAIR_S = 1.0, 0.1
SOLVER_STEPS = 40


@dataclass(frozen=True, slots=True)
class Solved:
    """What came of a job.

    Attributes:
        placement: What was found, or why nothing was.
        searched: Whether it was a search, not a repair.
        takes_s: Until the planner has the answer.
    """

    placement: Placement | HelixError
    searched: bool
    takes_s: float


def solve(job: StartPlanning) -> Solved:
    """Do what a planner asks of its solver."""
    searched = job.live is None or job.work is Work.IMPROVE
    found: Placement | HelixError
    try:
        found = carry_out(job.work, job.snapshot, job.live, PlanOptions(steps=SOLVER_STEPS))
    except HelixError as error:
        found = error
    return Solved(found, searched, SEARCH_S if searched else REPAIR_S)
