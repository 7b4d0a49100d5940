"""Plans on their way in: mentioned, asked for, completed, offered, on disk, adopted, passed on.

`adoption` says which plan holds; here is what else happens as one comes: it is asked of whoever
mentions it, its planner must be believed, a liar is convicted, and what is adopted is told.

Always: a plan of a banned key is never offered to `adoption`; what is adopted was on disk first.
"""

import contextlib
from collections.abc import Sequence

from helix_p2p.cluster.announcement import content_of
from helix_p2p.errors import HelixError, PlanRejected
from helix_p2p.identity import Signed
from helix_p2p.membership import effects as fx
from helix_p2p.membership import messages as m
from helix_p2p.membership.adoption import Adoption, Equivocation, Offer, mark_of
from helix_p2p.membership.announced import Announced
from helix_p2p.membership.audit import Audit
from helix_p2p.membership.exclusion import Exclusion
from helix_p2p.membership.gaps import Gaps
from helix_p2p.membership.office import Office
from helix_p2p.membership.outbox import Outbox
from helix_p2p.membership.own import MemberConfig
from helix_p2p.membership.pulls import Pulls
from helix_p2p.membership.talk import Talk
from helix_p2p.membership.timing import Now
from helix_p2p.membership.trust import Trust
from helix_p2p.membership.view import MembershipView
from helix_p2p.planning.plan import Reference, SignedPlan
from helix_p2p.planning.signed import hash_of_plan
from helix_p2p.types import PeerId


class Following:
    """See the module's description.

    Args:
        config: What does not change.
        view: Who is here.
        adoption: Which plan holds.
        trust: Whom to believe.
        exclusion: Where liars are convicted.
        office: Hears which plan holds.
        talk: Whom to tell.
        announced: Announcements that are at hand.
        out: Where effects go.
    """

    def __init__(
        self,
        config: MemberConfig,
        view: MembershipView,
        adoption: Adoption,
        trust: Trust,
        exclusion: Exclusion,
        office: Office,
        talk: Talk,
        announced: Announced,
        out: Outbox,
    ) -> None:
        self._config = config
        self._me = config.identity.peer_id
        self._view = view
        self._adoption = adoption
        self._trust = trust
        self._exclusion = exclusion
        self._office = office
        self._talk = talk
        self._out = out
        self._announced = announced
        self._pulls = Pulls(config.timing)
        self._gaps = Gaps(config.timing, self._pulls)
        self._audit = Audit()

    @property
    def waits(self) -> bool:
        """Whether a plan was asked for and has not come, or not wholly."""
        return len(self._pulls) + len(self._gaps) > 0

    def mentioned(self, epoch: int, plan_hash: bytes, peer: PeerId, now: Now) -> None:
        """`peer` holds this plan; it is asked for it when it is worth having."""
        waits = self._gaps.mentioned(plan_hash, peer)
        wanted = not waits and self._adoption.wants(epoch, plan_hash, now)
        if wanted and self._pulls.ask(plan_hash, peer, now.s):
            self._out.send(peer, m.GetPlan(plan_hash))

    def ask_again(self, now: Now) -> None:
        """Ask others for the plans that did not come, and for what plans refer to."""
        for peer, plan_hash in self._pulls.due(now.s):
            self._out.send(peer, m.GetPlan(plan_hash))
        for peer, contents in self._gaps.due(now.s):
            self._out.send(peer, m.GetMembers(contents))

    def announced(self, records: Sequence[Signed], source: PeerId, now: Now) -> None:
        """Announcements came; plans may have waited for them."""
        if not len(self._gaps):
            return
        known = {}
        for record in records:
            with contextlib.suppress(HelixError):  # whoever takes it as news says what is wrong
                known[content_of(record, self._config.swarm)] = record
        whole, questions = self._gaps.take(source, known, now.s)
        for plan in whole:
            self.offer(plan.record, source, now)
        for peer, contents in questions:
            self._out.send(peer, m.GetMembers(contents))

    def offer(self, record: Signed, source: PeerId, now: Now) -> bool:
        """A plan came from `source`, ourselves included.

        Returns:
            Whether it is a plan that may be followed, though a higher one may hold.
        """
        plan_hash = hash_of_plan(record.body)
        self._pulls.done(plan_hash, source)
        if self._trust.banned(record.signer):
            if source != self._me:  # it does not know yet
                self._out.send(source, self._exclusion.why(record.signer))
            if source in self._view and self._adoption.overtake(record, now):
                self._office.overtaken(now)
            error = PlanRejected("planner", "its key is banned")
            self._out.put(fx.PlanRefused(source, plan_hash, error))
            return False
        try:
            outcome, plan = self._adoption.offer(record, now, self._gather)
            if outcome is Offer.INCOMPLETE:
                self._trust.check_planner(plan, now.unix_s)
                question = self._gaps.open(plan, source, now.s)
                if question is not None:
                    self._out.send(question[0], m.GetMembers(question[1]))
                return False
            self._gaps.done(plan_hash)
        except Equivocation as lie:
            self._exclusion.convict(lie.proof, now)
            return False
        except HelixError as error:
            self._gaps.done(plan_hash)
            self._out.put(fx.PlanRefused(source, plan_hash, error))
            return False
        if outcome is Offer.PERSIST:
            self._out.put(fx.PersistHighWater(mark_of(plan)))
        return True

    def persisted(self, plan_hash: bytes, now: Now) -> None:
        """The mark of this plan is on disk."""
        previous = self._adoption.current
        plan = self._adoption.persisted(plan_hash, now.s)
        if plan is not None:
            self._adopted(plan, previous, now)

    def audit(self, now: Now) -> None:
        """Look whether the plan that holds leaves out those who have long been here."""
        if not self._office.held and (alarm := self._audit.check(self._view, now.s)) is not None:
            self._out.put(alarm)

    def _gather(self, references: Sequence[Reference]) -> dict[bytes, Signed]:
        found = self._gaps.found(references)
        if len(found) < len(references):
            found = found | self._announced.gather(references)
        return found

    def _adopted(self, plan: SignedPlan, previous: SignedPlan | None, now: Now) -> None:
        self._office.adopted(plan, now)
        planner = plan.plan.planner
        if self._view.is_gone(planner) or self._trust.banned(planner):
            self._office.cannot_lead(planner, now)
        self._audit.adopted(plan, now.s)
        self._out.put(fx.Adopted(plan, previous))
        targets = self._talk.targets()
        if planner == self._me:
            self._out.tell(targets, m.PushPlan(plan.record))
            self._out.put(fx.PlanPushed(plan, len(targets)))
        else:
            for peer in targets[: self._config.fan_out]:
                if peer != planner:
                    self._out.put(self._talk.ping(peer, now))
