"""The planner's office at this peer: when it is taken and given up, and what is done in it.

`election` says whose turn it is, `duty` what a planner plans; here the two hear of each other, and
of what the membership does.

Always: duty is done only by who holds the lease, and each taking and giving up is told.
"""

from collections.abc import Callable

from helix_p2p import codec
from helix_p2p.errors import CapacityError, HelixError
from helix_p2p.identity import Signed
from helix_p2p.membership import effects as fx
from helix_p2p.membership import messages as m
from helix_p2p.membership.adoption import Adoption
from helix_p2p.membership.duty import PlannerDuty
from helix_p2p.membership.election import LEASE_KIND, Election, Step, Surroundings
from helix_p2p.membership.outbox import Outbox
from helix_p2p.membership.own import MemberConfig
from helix_p2p.membership.roster import Roster
from helix_p2p.membership.talk import Talk
from helix_p2p.membership.timing import Now
from helix_p2p.planning.plan import Placement, SignedPlan
from helix_p2p.types import PeerId

BEATS_PASSED_ON = 2
"""In a large swarm a new beat is passed on to so many: four of five have it at once, and the others
with the next pings."""


class Office:
    """See the module's description.

    Args:
        config: What does not change.
        view: Who is here.
        adoption: Which plan holds.
        election: Whose turn it is.
        duty: What a planner does.
        talk: Whom a beat is told.
        out: Where effects go.
        now: Time.
    """

    def __init__(
        self,
        config: MemberConfig,
        view: Roster,
        adoption: Adoption,
        election: Election,
        duty: PlannerDuty,
        talk: Talk,
        out: Outbox,
        now: Now,
    ) -> None:
        self._config = config
        self._view = view
        self._adoption = adoption
        self._election = election
        self._duty = duty
        self._talk = talk
        self._out = out
        self._changed_s = now.s
        self._heard_s: float | None = None
        self._pass_on_s = now.s

    @property
    def held(self) -> bool:
        """Whether this peer plans."""
        return self._election.is_planner

    @property
    def holder(self) -> PeerId | None:
        """Who plans, as far as is known."""
        return self._election.holder

    # ── what happens around it ──────────────────────────────────────────────────────────────────

    def heard(self, now: Now) -> None:
        """A member was heard: this peer is not cut off."""
        self._heard_s = now.s

    def stood_still(self, now: Now) -> None:
        """This peer did not run for a while; the silence was its own."""
        self._heard_s = now.s if self._heard_s is not None else None

    def newcomer_seen(self, now: Now) -> None:
        """Someone may be here that is no member yet; the first plan waits for its answer."""
        if self._adoption.current is None:
            self._changed_s = now.s

    def changed(self, now: Now) -> None:
        """A member joined, or one changed so much that a new plan may pay."""
        self._changed_s = now.s
        if self.held:
            self._duty.joined(now)

    def lost(self, peer: PeerId, now: Now) -> None:
        """A member is gone, or can hold no layers any more."""
        self._changed_s = now.s
        if self.held:
            self._duty.lost(peer, now)

    def cannot_lead(self, peer: PeerId, now: Now) -> None:
        """If it held the lease, that is over."""
        self._election.on_gone(peer, now.s)

    def on_beat(self, record: Signed, now: Now, *, direct: bool) -> None:
        """Someone's beat; `direct` if its signer itself sent it.

        Raises:
            SignatureError, DecodeError: It is not a beat of this swarm.
        """
        held, swarm = self.held, self._config.swarm
        fresh = self._election.on_beat(record, swarm, self._view.candidates, now.s, direct=direct)
        if fresh and self._talk.among_many and now.s >= self._pass_on_s:
            self._pass_on_s = now.s + self._config.timing.beat_s / 2
            self._out.tell(self._talk.some(BEATS_PASSED_ON), m.Beat(record))
        if held and not self.held:
            self._stepped_down("another candidate goes first")

    def adopted(self, plan: SignedPlan, now: Now) -> None:
        """A plan holds: its planner has the lease."""
        held = self.held
        self._election.on_plan(plan, now.s)
        if held and not self.held:
            self._stepped_down("a higher plan holds")
        elif self.held and not held:
            self._begin("it made the plan that holds", now)

    def overtaken(self, now: Now) -> None:
        """Others follow a plan that does not count; who followed it is to follow ours."""
        if self.held:
            self._duty.begin(now, anew=True)

    def resign(self, reason: str, now: Now) -> None:
        """Give it up, if this peer has it."""
        if self.held:
            self._election.resign(now.s)
            self._stepped_down(reason)

    # ── time, and the solver's answers ──────────────────────────────────────────────────────────

    def tick(self, now: Now, able: Callable[[], bool]) -> None:
        """Take office, give it up, beat or plan, if it is time; `able` if this peer may lead."""
        if self._election.at_ease(now.s):
            return
        around = Surroundings(
            candidates=self._view.candidates,
            others=len(self._view),
            heard_s=self._heard_s,
            changed_s=self._changed_s,
            able=able(),
        )
        match self._election.tick(around, now.s):
            case Step.STEP_IN:
                self._begin("it is first in rank and nobody plans", now)
                self._beat(now)
            case Step.STEP_DOWN:
                self._stepped_down("it hears nobody, or may not plan now")
            case Step.BEAT:
                self._beat(now)
            case None:
                pass
        self._plan(now)

    def solved(self, request: int, placement: Placement, now: Now) -> Signed | None:
        """The solver's answer as a signed plan; None when nothing comes of it."""
        if self._duty.finish(request) and self.held:
            return self._duty.plan(placement, now)
        return None

    def failed(self, request: int, error: HelixError, now: Now) -> None:
        """The solver found nothing, and why."""
        if self._duty.finish(request) and self.held:
            self._planning_failed(error, now)

    def again(self, now: Now) -> None:
        """Our own plan was refused; plan again after a while."""
        self._duty.again(now)

    def _plan(self, now: Now) -> None:
        if not self.held:
            return
        job = self._duty.start(now)
        if isinstance(job, fx.StartPlanning):
            self._out.put(job)
        elif job is not None:
            self._planning_failed(job, now)

    def _planning_failed(self, error: HelixError, now: Now) -> None:
        self._out.put(fx.PlanningFailed(error))
        if not isinstance(error, CapacityError):
            self._duty.again(now)
        elif self._election.on_unsolvable(self._view.candidates(), now.s):
            self._stepped_down("no plan is possible, and another is first in rank")

    def _beat(self, now: Now) -> None:
        lease = self._election.beat(now.unix_s, now.s)
        record = self._config.identity.sign(LEASE_KIND, self._config.swarm, codec.encode(lease))
        self._election.latest_beat, self._election.latest_number = record, lease.number
        self._out.tell(self._talk.targets(), m.Beat(record))

    def _begin(self, why: str, now: Now) -> None:
        self._duty.begin(now)
        self._out.put(fx.BecamePlanner(why))

    def _stepped_down(self, reason: str) -> None:
        self._duty.end()
        self._out.put(fx.SteppedDown(reason))
