"""What a planner may be asked to do, and which part of planning does it.

Always: a repair is done at once and moves few; an improvement has the time it is given and is one
stage of a better plan; only where no plan is in force everyone may be moved.
"""

from enum import StrEnum

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.improve import improve
from helix_p2p.planning.options import PlanOptions
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import plan
from helix_p2p.planning.repair import repair


class Work(StrEnum):
    """A planner's job."""

    REPAIR = "repair"
    """Somebody came or went: go on serving."""
    IMPROVE = "improve"
    """It is calm: look for something better."""


def carry_out(
    work: Work, snapshot: Snapshot, live: Placement | None, options: PlanOptions
) -> Placement:
    """Do a job.

    Raises:
        SwarmTooSmall: The peers together cannot hold the model.
        Cancelled: `options.cancelled` said so.
    """
    if live is None:
        return plan(snapshot, options)
    match work:
        case Work.REPAIR:
            return repair(snapshot, live, options)
        case Work.IMPROVE:
            return improve(snapshot, live, options)
