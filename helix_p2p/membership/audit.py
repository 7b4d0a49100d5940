"""Whether the planner plays fair: a plan that leaves out those who have long been here is noticed.

Validation cannot see it, since it never reads local membership; so this is an alarm and no veto.
"""

from helix_p2p.membership.effects import PlanOmits
from helix_p2p.membership.timing import SLOT_S
from helix_p2p.membership.view import MembershipView
from helix_p2p.planning.plan import SignedPlan

OMITTED_AFTER_S = 2 * SLOT_S


class Audit:
    """Looks at each plan once, when it has held for two slots."""

    def __init__(self) -> None:
        self._plan: SignedPlan | None = None
        self._since_s = 0.0

    def adopted(self, plan: SignedPlan, now_s: float) -> None:
        """A plan holds from now on."""
        self._plan, self._since_s = plan, now_s

    def check(self, view: MembershipView, now_s: float) -> PlanOmits | None:
        """An alarm, if one is due."""
        plan = self._plan
        if plan is None or now_s - self._since_s < OMITTED_AFTER_S:
            return None
        self._plan = None
        named = {record.signer for record in plan.plan.announcements}
        omitted = sorted(
            entry.peer
            for entry in view.plannable()
            if entry.peer not in named and now_s - entry.joined_s > OMITTED_AFTER_S
        )
        return PlanOmits(plan.plan.planner, tuple(omitted)) if omitted else None
