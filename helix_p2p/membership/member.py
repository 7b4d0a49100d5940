"""One member of a swarm, as a machine: who is alive, who plans, which plan holds.

Inputs are method calls, each with the time; each returns the effects to be carried out, in order
(the shape is etcd-io/raft's: messages and ticks in, what to persist and send out). The node calls
`tick` several times a second, hands in every membership message, the DHT's answers and broken
links, and says when this peer's own state changes.

The parts, each knowing only those before it: `roster` (who is here), `view` (who comes to be here),
`adoption` (which plan holds), `election` (whose turn it is to plan), `trust` (whom to believe),
`announced` (what was announced, by content), `talk` (what is said to whom), `duty` (what a planner
does), `office` (when it does it), `attendance` (who comes and goes), `exclusion` (who is cut off),
`following` (which plans come in). This module builds them, hands each message to the part it is
for, and gives each tick to all.

Always: nothing here waits or raises for a peer's bad input; nothing is sent or stored except
through an effect.
"""

import contextlib
from collections.abc import Iterable
from random import Random

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import HelixError
from helix_p2p.identity import Signed
from helix_p2p.membership import effects as fx
from helix_p2p.membership import messages as m
from helix_p2p.membership.adoption import Adoption
from helix_p2p.membership.announced import Announced
from helix_p2p.membership.attendance import Attendance
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.disputes import Disputes
from helix_p2p.membership.duty import PlannerDuty
from helix_p2p.membership.effects import MemberMessage
from helix_p2p.membership.election import Election
from helix_p2p.membership.exclusion import Exclusion
from helix_p2p.membership.following import Following
from helix_p2p.membership.gossip import GONE_PER_MESSAGE, MANY, RUMOURS_PER_MESSAGE, Gossip
from helix_p2p.membership.office import Office
from helix_p2p.membership.outbox import Effects, Outbox
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.membership.plannable import PLANNABLE, weighty_change
from helix_p2p.membership.questions import Questions
from helix_p2p.membership.revocations import REVOCATIONS_KIND
from helix_p2p.membership.talk import MEMBERS_PER_REPLY, Talk
from helix_p2p.membership.timing import Now
from helix_p2p.membership.trust import Trust
from helix_p2p.membership.view import MembershipView
from helix_p2p.membership.voice import Voice
from helix_p2p.planning.plan import Placement, SignedPlan
from helix_p2p.types import LayerRange, PeerId

NEWS_TAKEN = 64
ROUND_S, CALM_ROUND_S = 1.0, 2.0
"""In a large swarm nothing is due more often: a second, and two while somebody else plans and no
plan is on its way."""
EARLY_S = 0.05
"""A tick that comes so little before its round counts, whatever beat the ticks come in."""
OPEN_BELIEVES_FROM = 64
"""In an open swarm identities cost nothing, so everyone is pinged before it counts; but with more
members than this no newcomer can be pinged by all."""


class Member:
    """See the module's description.

    Args:
        config: What does not change.
        rng: Chance: ping targets and jitter.
        now: Time of birth.

    Raises:
        HandshakeRefused: Our own credentials do not hold.
    """

    def __init__(self, config: MemberConfig, rng: Random, now: Now) -> None:
        self.config = config
        self._me = me = config.identity.peer_id
        self._timing = timing = config.timing
        self.trust = Trust(me, config.swarm, config.root_public_key)
        if config.revocations is not None:
            with contextlib.suppress(HelixError):  # of another swarm: this one has its own
                self.trust.revoke(config.revocations)
        roles = self.trust.admit(config.credentials, me, now.unix_s)
        self._may_plan = config.may_plan and config.model is not None and Role.PLANNER in roles
        self.view = MembershipView(
            me,
            config.swarm,
            config.manifest_hash,
            self.trust.admit,
            timing,
            config.most_members,
            OPEN_BELIEVES_FROM if config.root_public_key is None else config.ping_everyone_up_to,
            limited=config.root_public_key is None,
        )
        self.view.locate(config.ways_in)
        self.adoption = Adoption(
            config.swarm,
            self._validate,
            timing,
            config.high_water,
            met=lambda peer: peer == me or self.view.has_met(peer),
        )
        self.election = Election(me, timing, rng, now.s)
        self._voice = Voice(config, may_plan=self._may_plan, now=now)
        self._gossip = Gossip(me, rng, config.ping_everyone_up_to, config.fan_out)
        self._disputes = Disputes(timing)
        self._questions = Questions(timing)
        announced = Announced(config.swarm, self.view, self._voice, self.adoption)
        self._talk = Talk(
            config,
            self._voice,
            self._gossip,
            self.view,
            self.adoption,
            self.election,
            self.trust,
            self._disputes,
            announced,
            now,
        )
        self._duty = PlannerDuty(config, self.view, self._voice, self.adoption, announced)
        self._out = out = Outbox()
        self._office = Office(
            config, self.view, self.adoption, self.election, self._duty, self._talk, out, now
        )
        self._attendance = Attendance(
            me,
            config.swarm,
            self.view,
            self._gossip,
            self._disputes,
            self._questions,
            self._talk,
            self._office,
            out,
        )
        self._exclusion = Exclusion(
            config, self.trust, self.view, self._talk, self._attendance, out, rng, now
        )
        self._following = Following(
            config,
            self.view,
            self.adoption,
            self.trust,
            self._exclusion,
            self._office,
            self._talk,
            announced,
            out,
        )
        self._ticked_s = self._next_round_s = now.s
        self._looked_up = False
        self._skewed = False
        self._left = False

    # ── what others may ask ─────────────────────────────────────────────────────────────────────

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        return self._me

    @property
    def own(self) -> OwnState:
        """What this peer says of itself."""
        return self._voice.own

    @property
    def record(self) -> Signed:
        """The same under its signature."""
        return self._voice.record

    @property
    def plan(self) -> SignedPlan | None:
        """The adopted plan."""
        return self.adoption.current

    @property
    def planner(self) -> PeerId | None:
        """Who holds the lease, as far as is known."""
        return self.election.holder

    @property
    def is_planner(self) -> bool:
        """Whether this peer plans."""
        return self.election.is_planner

    def announcements(self) -> dict[PeerId, Announcement]:
        """Everyone's latest word, our own included."""
        everyone = {entry.peer: entry.announcement for entry in self.view}
        everyone[self._me] = self._voice.announcement
        return everyone

    def serving(self) -> dict[PeerId, LayerRange]:
        """Which layers are loaded where and may be routed over, this peer included."""
        serving = self.view.serving()
        own = self._voice.announcement.routable
        if own is not None:
            serving[self._me] = own
        return serving

    def serving_of(self, peer: PeerId) -> LayerRange | None:
        """Which layers may be routed over at one peer, or this one."""
        own = self._voice.announcement.routable
        return own if peer == self._me else self.view.serving_of(peer)

    @property
    def serving_version(self) -> tuple[int, LayerRange | None]:
        """Changes whenever `serving` does."""
        return (self.view.serving_version, self._voice.announcement.routable)

    def snapshot(self) -> Snapshot | None:
        """What a planner would plan over now; None without a model."""
        basis = self._duty.draft()
        return basis.snapshot if basis else None

    def records(self) -> tuple[Signed, ...]:
        """Members' signed announcements, to be kept for a restart without bootstrap nodes."""
        return tuple(entry.record for entry in self.view)

    def accepts_epoch(self, epoch: int, now: Now) -> bool:
        """Whether data messages of this epoch are taken, else they get `StaleEpoch`."""
        return self.adoption.accepts_epoch(epoch, now.s)

    @property
    def next_round_s(self) -> float:
        """Until then, on the clock of `Now.s`, ticks have no effect."""
        return self._next_round_s

    # ── inputs ──────────────────────────────────────────────────────────────────────────────────

    def tick(self, now: Now) -> Effects:
        """Time passes; call it every 0.1–0.5 s."""
        if self._left:
            return ()
        if now.s - self._ticked_s > self._timing.silence_s / 2:
            self.view.forgive(now.s - self._ticked_s)  # we stood still, not they
            self._office.stood_still(now)
        self._ticked_s = now.s
        if self._talk.among_many and now.s < self._next_round_s - EARLY_S:
            return ()
        self._next_round_s = now.s + self._pause_s(now)
        self._out.extend(self._talk.tick(now))
        self._attendance.check(now)
        self._check_clock()
        self._exclusion.tick(now)
        self._following.ask_again(now)
        self._office.tick(now, self._may_lead)
        self._following.audit(now)
        return self._out.drain()

    def set_own(self, own: OwnState, now: Now) -> Effects:
        """This peer's state changed; it is announced at once (at most every `publish_gap_s`)."""
        if own == self._voice.own or self._left:
            return ()
        self.view.locate(own.addresses)
        before = self._voice.announcement
        self._voice.change(own, self.plan, now, among_many=self._talk.among_many)
        if weighty_change(before, self._voice.announcement):
            self._office.changed(now)
        self._out.extend(self._talk.tick(now))
        return self._out.drain()

    def leave(self, now: Now) -> Effects:
        """Last words: tell everyone that this peer has left. Nothing has an effect after it."""
        if self._left:
            return ()
        self._office.resign("this peer leaves", now)
        self._voice.change(OwnState(state=PeerState.LEFT), self.plan, now)
        for peer in self._talk.targets():
            self._out.put(self._talk.ping(peer, now))
            self._out.send(peer, m.PeerGone(self._me, leaving=True))
        self._out.put(self._talk.publish(now))
        self._left = True
        return self._out.drain()

    def on_message(self, peer: PeerId, message: MemberMessage, now: Now) -> Effects:
        """A message from an authenticated, admitted peer."""
        if self._left or self.trust.banned(peer):
            return ()
        try:
            self._take(peer, message, now)
        except HelixError as error:
            self._out.put(fx.MessageRefused(peer, error))
        return self._out.drain()

    def on_records(self, records: Iterable[Signed], now: Now) -> Effects:
        """What a look-up found in the DHT, or a cache on disk; also when it found nothing."""
        self._looked_up = True
        records = tuple(records)
        self._talk.found(len(records), now)
        for record in records:
            self._take_record(record, now)
        return self._out.drain()

    def on_peer_lost(self, peer: PeerId, now: Now) -> Effects:
        """An open stream broke or fell silent: the peer is probed, and gone if that fails."""
        self._attendance.link_lost(peer, now)
        return self._out.drain()

    def on_unreachable(self, peer: PeerId, now: Now) -> Effects:
        """A `SendTo` could not be delivered: the dial failed."""
        self._attendance.unreachable(peer, now)
        return self._out.drain()

    def on_high_water_persisted(self, plan_hash: bytes, now: Now) -> Effects:
        """The mark of this plan is on disk."""
        self._following.persisted(plan_hash, now)
        return self._out.drain()

    def on_high_water_failed(self, plan_hash: bytes, now: Now) -> Effects:
        """The mark could not be written; the plan is not adopted."""
        self.adoption.persist_failed(plan_hash)
        self._office.resign("the high-water mark cannot be written", now)
        return self._out.drain()

    def on_plan_solved(self, request: int, placement: Placement, now: Now) -> Effects:
        """The solver's answer to `StartPlanning`."""
        record = self._office.solved(request, placement, now)
        if record is not None and not self._following.offer(record, self._me, now):
            self._office.again(now)
        return self._out.drain()

    def on_plan_failed(self, request: int, error: HelixError, now: Now) -> Effects:
        """The solver found nothing, and why."""
        self._office.failed(request, error, now)
        return self._out.drain()

    def on_revocations(self, record: Signed, now: Now) -> Effects:
        """The operator revoked peers or invites; everyone is told."""
        return self.on_message(self._me, m.PushRevocations(record), now)

    # ── messages ────────────────────────────────────────────────────────────────────────────────

    def _take(self, peer: PeerId, message: MemberMessage, now: Now) -> None:
        if isinstance(message, m.Ping | m.Pong):
            self._take_ping(peer, message, now)
            return
        self._attendance.heard(peer, now)
        match message:  # what comes most first
            case m.Beat(record):
                self._office.on_beat(record, now, direct=record.signer == peer)
            case m.MembersReply(records):
                for record in records[:MEMBERS_PER_REPLY]:
                    self._attendance.learn(record, peer, now)
                self._following.announced(records[:MEMBERS_PER_REPLY], peer, now)
            case m.GetMembers(words):
                self._out.send(peer, self._talk.known(words))
            case m.GetPlan(plan_hash):
                plan = self.adoption.find(plan_hash, now.s)
                self._out.send(peer, m.PlanReply(plan.record if plan else None))
            case m.PlanReply(record):
                if record is not None:
                    self._following.offer(record, peer, now)
            case m.PushPlan(record):
                self._following.offer(record, peer, now)
            case m.PushProof():
                self._exclusion.convict(message, now)
            case m.PushRevocations(record):
                self._exclusion.revoke(record, now)
            case m.PeerGone(gone, leaving):
                self._attendance.gone(peer, gone, now, leaving=leaving)

    def _take_ping(self, peer: PeerId, message: m.Ping | m.Pong, now: Now) -> None:
        if message.announcement is not None:
            self._attendance.learn(message.announcement, peer, now)
        rtt_s = None
        if isinstance(message, m.Pong):
            rtt_s = self._gossip.round_trip_s(peer, message.number, now.s)
        self._attendance.heard(peer, now, unix_s=message.unix_s, rtt_s=rtt_s)
        entry = self.view.get(peer)
        if entry is not None:
            entry.shown_word = message.seen
            entry.shown_beat = (message.plan_hash, message.beat)
        asks: tuple[bytes, ...] = ()
        if message.news:
            words = message.news[:NEWS_TAKEN]
            asks = self._questions.worth(words, self.view, self._voice.word, now.s)
        if isinstance(message, m.Ping):
            self._out.put(self._talk.pong(peer, message, asks, now))
        else:
            self._out.extend(self._talk.owed(peer, message))
            if asks:
                self._out.send(peer, m.GetMembers(asks))
        if message.gone:
            self._attendance.lost_elsewhere(peer, message.gone[:GONE_PER_MESSAGE], now)
        for record in message.rumours[:RUMOURS_PER_MESSAGE]:
            self._attendance.learn(record, peer, now)
        if message.lease is not None:
            self._office.on_beat(message.lease, now, direct=message.lease.signer == peer)
        self._exclusion.inform(peer, message.revocations)
        self._following.mentioned(message.epoch, message.plan_hash, peer, now)

    def _take_record(self, record: Signed, now: Now) -> None:
        try:
            if record.kind == REVOCATIONS_KIND:
                self._exclusion.revoke(record, now)
            else:
                self._attendance.learn(record, self._me, now)
        except HelixError as error:
            self._out.put(fx.MessageRefused(self._me, error))

    # ── what only the whole knows ───────────────────────────────────────────────────────────────

    def _pause_s(self, now: Now) -> float:
        if not self._talk.among_many:
            return 0.0
        calm = len(self.view) > MANY and self.election.at_ease(now.s)
        return CALM_ROUND_S if calm and not self._following.waits else ROUND_S

    def _check_clock(self) -> None:
        offset_s = self.view.clock_offset_s()
        skewed = offset_s is not None and abs(offset_s) > self._timing.skew_s
        if skewed != self._skewed:
            self._skewed = skewed
            self._out.put(fx.ClockSkewed(offset_s if skewed else None))

    def _may_lead(self) -> bool:
        """Whether this peer may plan now, if the lease is free or its own."""
        return (
            self._may_plan
            and not self._skewed
            and not self._exclusion.expelled
            and self._voice.own.state in PLANNABLE
            and (self._looked_up or len(self.view) > 0)
            and (self.is_planner or not self._following.waits)
        )

    def _validate(self, signed: SignedPlan, now_unix_s: float) -> None:
        """The rules that all share, after the planner's own right to plan."""
        self.trust.check_planner(signed, now_unix_s)
        self.config.validate(signed, now_unix_s)
