"""The planner's duty: when to plan, over what, and which answers become plans.

Always: at most one solver job counts, and a placement that gives layers to a peer that has gone
since is planned again, not published.
"""

from helix_p2p.errors import SwarmTooSmall
from helix_p2p.identity import Signed
from helix_p2p.membership.adoption import Adoption, next_epoch
from helix_p2p.membership.announced import Announced
from helix_p2p.membership.drafting import Draft, draft, plan_of, same_decision
from helix_p2p.membership.effects import StartPlanning
from helix_p2p.membership.own import MemberConfig
from helix_p2p.membership.replanning import Desk
from helix_p2p.membership.roster import Roster
from helix_p2p.membership.timing import Now
from helix_p2p.membership.voice import Voice
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.work import Work
from helix_p2p.types import Epoch, PeerId

LEAST_LOSS = 0.05
"""A plan that has lost more than this share of its peers is made anew at once."""


class PlannerDuty:
    """See the module's description.

    Args:
        config: What does not change.
        view: Who is here.
        voice: Our own announcement, which every plan of ours carries.
        adoption: The live plan.
        announced: Where others find what a plan of ours refers to.
    """

    def __init__(
        self,
        config: MemberConfig,
        view: Roster,
        voice: Voice,
        adoption: Adoption,
        announced: Announced,
    ) -> None:
        self._config = config
        self._me = config.identity.peer_id
        self._view = view
        self._voice = voice
        self._adoption = adoption
        self._announced = announced
        self._desk = Desk(config.timing)
        self._basis: Draft | None = None
        self._anew = False
        self._signed_epoch = 0
        self._planned_s = float("-inf")
        self._work = Work.REPAIR

    def begin(self, now: Now, *, anew: bool = False) -> None:
        """We plan from now on; `anew` gives a new epoch even if nothing else changes."""
        self._anew, self._planned_s = self._anew or anew, now.s
        self._desk.at_once(now.s)

    def end(self) -> None:
        """We plan no longer."""
        self._desk.clear()

    def joined(self, now: Now) -> None:
        """A member joined, or one changed so much that a new plan may pay."""
        self._desk.soon(now.s, len(self._view))

    def lost(self, peer: PeerId, now: Now) -> None:
        """A member is gone; a job that counts on it is of no use any more."""
        worthless = self._desk.running and self._basis is not None and peer in self._basis.peers
        if worthless:
            self._desk.supersede()
        if worthless or self._hurts(peer):
            self._desk.at_once(now.s)
        else:
            self._desk.soon(now.s, len(self._view))

    def _hurts(self, peer: PeerId) -> bool:
        """Whether the live plan without this peer lacks a layer, or much of what it carries.

        Others that the plan counts on may be gone too; who still waits for them is no help.
        """
        live = self._adoption.current
        if live is None:
            return True
        held = live.plan.placement.assignments
        if not any(a.peer == peer for a in held):
            return False
        left = [a.layers for a in held if a.peer != peer and self._serves(a.peer)]
        if len(left) < (1 - LEAST_LOSS) * len(held):
            return True
        model = self._config.model
        covered = {layer for layers in left for layer in layers}
        return model is None or len(covered) < model.layers

    def _serves(self, peer: PeerId) -> bool:
        return peer == self._me or peer in self._view

    def again(self, now: Now) -> None:
        """Something passing went wrong; try again after a while."""
        self._desk.later(now.s)

    def finish(self, request: int) -> bool:
        """The solver answered; whether the answer counts."""
        return self._desk.finish(request)

    def draft(self) -> Draft | None:
        """What we would plan with now; None without a model."""
        if self._config.model is None:
            return None
        own = (self._voice.record, self._voice.announcement)
        limit_bytes = self._config.carried_limit_bytes
        return draft(self._config.model, own, self._view.plannable(), limit_bytes)

    def start(self, now: Now) -> StartPlanning | SwarmTooSmall | None:
        """The job that is due, if one is; or why there is nothing to solve."""
        epoch = self._next_epoch(now)
        if epoch is None:
            return None
        work, request = Work.REPAIR, self._desk.take(now.s)
        if request is None and self._may_improve(now):
            work, request = Work.IMPROVE, self._desk.take_improvement(now.s)
        if request is None:
            return None
        self._work = work
        self._basis = basis = self.draft()
        if basis is not None:
            self._announced.drafted = basis.referred
        if basis is None or not basis.snapshot.peers:
            self._desk.finish(request)
            return self._too_small()
        live = self._adoption.current
        placement = live.plan.placement if live else None
        return StartPlanning(request, basis.snapshot, placement, epoch, work)

    def _may_improve(self, now: Now) -> bool:
        """Whether the plan in force is loaded; for who never gets ready it is not waited."""
        live = self._adoption.current
        if live is None:
            return False
        if now.s - self._planned_s >= self._config.timing.improve_most_s:
            return True
        serving = self._view.serving()
        own = self._voice.announcement.routable
        return all(
            (held := own if it.peer == self._me else serving.get(it.peer)) is not None
            and held.contains(it.layers)
            for it in live.plan.placement.assignments
            if self._serves(it.peer)
        )

    def plan(self, placement: Placement, now: Now) -> Signed | None:
        """The solver's answer as a signed plan; None when it is not to be published."""
        basis, live = self._basis, self._adoption.current
        if basis is None:
            return None
        assigned = {assignment.peer for assignment in placement.assignments}
        present = {entry.peer for entry in self._view.plannable()} | {self._me}
        if not assigned <= present:
            self._desk.at_once(now.s)
            return None
        ours = live is not None and live.plan.planner == self._me
        unchanged = live is not None and same_decision(live.plan.placement, placement)
        moved = live is not None and live.plan.placement.assignments != placement.assignments
        if moved or (live is not None and self._work is Work.REPAIR):
            self._desk.improve(now.s, len(self._view))  # a first plan was searched for
        if ours and unchanged and not self._anew:
            return None
        epoch = self._next_epoch(now)
        if epoch is None:
            self._desk.later(now.s)
            return None
        self._anew = False
        self._signed_epoch, self._planned_s = int(epoch), now.s
        return plan_of(
            self._config.identity,
            self._config.swarm,
            epoch=epoch,
            previous=live,
            basis=basis,
            placement=placement,
            unix_s=now.unix_s,
        )

    def _next_epoch(self, now: Now) -> Epoch | None:
        """Above all we know, and never one that we signed before: that would convict us."""
        highest = max(self._adoption.highest_epoch, self._signed_epoch)
        return next_epoch(highest, now.unix_s)

    def _too_small(self) -> SwarmTooSmall:
        model = self._config.model
        missing = model.weight_bytes(model.all_layers) if model else 0
        return SwarmTooSmall(missing_bytes=missing, usable_peers=0, total_peers=len(self._view) + 1)
