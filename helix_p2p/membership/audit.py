"""Whether the planner plays fair: plans that leave out those who have long been here are noticed.

Validation cannot see it, since it never reads local membership; so this is an alarm and no veto.
What counts is for how long a member is left out, over however many plans: a planner that makes a
new plan every minute must not start the count anew.

Always: one alarm for each member that is left out, until a plan names it again.
"""

from helix_p2p.membership.effects import PlanOmits
from helix_p2p.membership.liveness import stretch_of
from helix_p2p.membership.roster import Roster
from helix_p2p.planning.plan import SignedPlan
from helix_p2p.planning.signed import named_in
from helix_p2p.types import SLOT_S, PeerId

OMITTED_AFTER_S = 2 * SLOT_S
LOOK_EVERY_S = 2.0
"""In a large swarm less often, since a look goes over all members."""
LOOK_STRETCH_MEMBERS = 16


class Audit:
    """Looks at the plan that holds, every few seconds."""

    def __init__(self) -> None:
        self._plan: SignedPlan | None = None
        self._named: frozenset[PeerId] = frozenset()
        self._adopted_s = self._look_s = 0.0
        self._since_s: dict[PeerId, float] = {}
        self._told: set[PeerId] = set()

    def adopted(self, plan: SignedPlan, now_s: float) -> None:
        """A plan holds from now on."""
        self._plan, self._adopted_s = plan, now_s
        self._named = named_in(plan.record)
        self._since_s = {p: s for p, s in self._since_s.items() if p not in self._named}
        self._told -= self._named

    def check(self, view: Roster, now_s: float) -> PlanOmits | None:
        """An alarm, if one is due."""
        plan = self._plan
        if plan is None or now_s < self._look_s:
            return None
        self._look_s = now_s + LOOK_EVERY_S * stretch_of(len(view), LOOK_STRETCH_MEMBERS)
        out = {e.peer: e.joined_s for e in view.plannable(but=self._named)}
        self._since_s = {
            peer: self._since_s.get(peer, max(self._adopted_s, joined_s))
            for peer, joined_s in out.items()
        }
        due = {p for p, since_s in self._since_s.items() if now_s - since_s >= OMITTED_AFTER_S}
        fresh = tuple(sorted(due - self._told))
        self._told |= due
        return PlanOmits(plan.plan.planner, fresh) if fresh else None
