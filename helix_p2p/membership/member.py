"""One member of a swarm, as a machine: who is alive, who plans, which plan holds.

Inputs are method calls, each with the time; each returns the effects to be carried out, in order
(the shape is etcd-io/raft's: messages and ticks in, what to persist and send out). The node calls
`tick` several times a second, hands in every membership message, the DHT's answers and broken
links, and says when this peer's own state changes.

The parts: `view` (who is here), `adoption` (which plan), `election` (who plans), `talk` (what is
said to whom), `duty` (what the planner does), `trust` (whom to believe). This module joins them:
what one part learns, the others hear.

Always: nothing here waits or raises for a peer's bad input; nothing is sent or stored except
through an effect.
"""

import contextlib
from collections.abc import Iterable
from random import Random

from helix_p2p import codec
from helix_p2p.cluster.announcement import (
    Announcement,
    PeerState,
    open_announcement,
    word_of,
)
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import CapacityError, HandshakeRefused, HelixError, PlanRejected
from helix_p2p.identity import Signed
from helix_p2p.membership import effects as fx
from helix_p2p.membership import messages as m
from helix_p2p.membership.adoption import Adoption, Equivocation, Offer, mark_of
from helix_p2p.membership.audit import Audit
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.detector import Verdict
from helix_p2p.membership.disputes import Disputes
from helix_p2p.membership.duty import PlannerDuty
from helix_p2p.membership.effects import Effect, MemberMessage
from helix_p2p.membership.election import LEASE_KIND, Election, Step, Surroundings
from helix_p2p.membership.gossip import RUMOURS_PER_MESSAGE, Gossip
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.membership.pulls import Pulls
from helix_p2p.membership.questions import WORDS_PER_QUESTION, Questions
from helix_p2p.membership.records import revocations_key
from helix_p2p.membership.revocations import REVOCATIONS_KIND
from helix_p2p.membership.talk import Talk
from helix_p2p.membership.timing import Now
from helix_p2p.membership.trust import Trust
from helix_p2p.membership.view import PLANNABLE, MembershipView, News, weighty_change
from helix_p2p.membership.voice import Voice
from helix_p2p.planning.plan import Placement, SignedPlan, hash_of_plan
from helix_p2p.types import LayerRange, PeerId

Effects = tuple[Effect, ...]

MEMBERS_PER_REPLY = 256
NEWS_TAKEN = 64
RECHECK_S = 5.0
"""How often certificates are looked at again, for those that expire while their owner runs."""
REVOCATIONS_WRITERS = 6.0
"""So many members write the root's list into the DHT in a period, whatever the swarm's size."""


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
            config.ping_everyone_up_to if config.root_public_key is not None else None,
        )
        self.adoption = Adoption(config.swarm, self._validate, timing, config.high_water)
        self.election = Election(me, timing, rng, now.s)
        self._voice = Voice(config, may_plan=self._may_plan, now=now)
        self._gossip = Gossip(me, rng, config.ping_everyone_up_to, config.fan_out)
        self._disputes = Disputes(timing)
        self._questions = Questions(timing)
        self._talk = Talk(
            config,
            self._voice,
            self._gossip,
            self.view,
            self.adoption,
            self.election,
            self.trust,
            self._disputes,
            now,
        )
        self._duty = PlannerDuty(config, self.view, self._voice, self.adoption)
        self._pulls = Pulls(timing)
        self._out: list[Effect] = []
        self._ticked_s = self._changed_s = now.s
        self._heard_s: float | None = None
        self._looked_up = False
        self._skewed = False
        self._left = False
        self._audit = Audit()
        self._rng = rng
        self._recheck_due_s = self._republish_due_s = now.s
        self._expelled = False

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

    # ── inputs ──────────────────────────────────────────────────────────────────────────────────

    def tick(self, now: Now) -> Effects:
        """Time passes; call it every 0.1–0.5 s."""
        if self._left:
            return ()
        if now.s - self._ticked_s > self._timing.silence_s / 2:
            self.view.forgive(now.s - self._ticked_s)  # we stood still, not they
            self._heard_s = now.s if self._heard_s is not None else None
        self._ticked_s = now.s
        self._out += self._talk.tick(now)
        self._check_members(now)
        self._check_clock()
        self._check_certificates(now)
        self._republish(now)
        for peer, plan_hash in self._pulls.due(now.s):
            self._send(peer, m.GetPlan(plan_hash))
        self._elect(now)
        self._plan(now)
        if not self.is_planner and (alarm := self._audit.check(self.view, now.s)) is not None:
            self._out.append(alarm)
        return self._drain()

    def set_own(self, own: OwnState, now: Now) -> Effects:
        """This peer's state changed; it is announced at once (at most every `publish_gap_s`)."""
        if own == self._voice.own or self._left:
            return ()
        before = self._voice.announcement
        self._voice.change(own, self.plan, now)
        if weighty_change(before, self._voice.announcement):
            self._membership_changed(now)
        self._out += self._talk.tick(now)
        return self._drain()

    def leave(self, now: Now) -> Effects:
        """Last words: tell everyone that this peer has left. Nothing has an effect after it."""
        if self._left:
            return ()
        if self.election.is_planner:
            self.election.resign(now.s)
            self._stepped_down("this peer leaves")
        self._voice.change(OwnState(state=PeerState.LEFT), self.plan, now)
        for peer in self._talk.targets():
            self._ping(peer, now)
            self._send(peer, m.PeerGone(self._me, leaving=True))
        self._out.append(self._talk.publish(now))
        self._left = True
        return self._drain()

    def on_message(self, peer: PeerId, message: MemberMessage, now: Now) -> Effects:
        """A message from an authenticated, admitted peer."""
        if self._left or self.trust.banned(peer):
            return ()
        try:
            self._take(peer, message, now)
        except HelixError as error:
            self._out.append(fx.MessageRefused(peer, error))
        return self._drain()

    def on_records(self, records: Iterable[Signed], now: Now) -> Effects:
        """What a look-up found in the DHT, or a cache on disk; also when it found nothing."""
        self._looked_up = True
        for record in records:
            self._take_record(record, now)
        return self._drain()

    def on_peer_lost(self, peer: PeerId, now: Now) -> Effects:
        """An open stream broke or fell silent: the peer is probed, and gone if that fails."""
        if self.view.link_lost(peer, now.s):
            self._check_members(now)
        return self._drain()

    def on_unreachable(self, peer: PeerId, now: Now) -> Effects:
        """A `SendTo` could not be delivered: the dial failed."""
        if self.view.unreachable(peer, now.s):
            self._check_members(now)
        self.view.drop_contact(peer)
        return self._drain()

    def on_high_water_persisted(self, plan_hash: bytes, now: Now) -> Effects:
        """The mark of this plan is on disk."""
        previous = self.adoption.current
        plan = self.adoption.persisted(plan_hash, now.s)
        if plan is not None:
            self._adopted(plan, previous, now)
        return self._drain()

    def on_high_water_failed(self, plan_hash: bytes, now: Now) -> Effects:
        """The mark could not be written; the plan is not adopted."""
        self.adoption.persist_failed(plan_hash)
        if self.election.is_planner:
            self.election.resign(now.s)
            self._stepped_down("the high-water mark cannot be written")
        return self._drain()

    def on_plan_solved(self, request: int, placement: Placement, now: Now) -> Effects:
        """The solver's answer to `StartPlanning`."""
        if self._duty.finish(request) and self.election.is_planner:
            record = self._duty.plan(placement, now)
            if record is not None and self._offer(record, self._me, now) is None:
                self._duty.again(now)
        return self._drain()

    def on_plan_failed(self, request: int, error: HelixError, now: Now) -> Effects:
        """The solver found nothing, and why."""
        if self._duty.finish(request) and self.election.is_planner:
            self._planning_failed(error, now)
        return self._drain()

    def on_revocations(self, record: Signed, now: Now) -> Effects:
        """The operator revoked peers or invites; everyone is told."""
        return self.on_message(self._me, m.PushRevocations(record), now)

    # ── messages ────────────────────────────────────────────────────────────────────────────────

    def _take(self, peer: PeerId, message: MemberMessage, now: Now) -> None:
        self._heard(peer, now)
        match message:
            case m.Ping() | m.Pong():
                self._take_ping(peer, message, now)
            case m.GetPlan(plan_hash):
                plan = self.adoption.find(plan_hash, now.s)
                self._send(peer, m.PlanReply(plan.record if plan else None))
            case m.PlanReply(record):
                if record is not None:
                    self._offer(record, peer, now)
            case m.PushPlan(record):
                self._offer(record, peer, now)
            case m.GetMembers(words):
                self._send(peer, m.MembersReply(self._records_of(words)))
            case m.MembersReply(records):
                for record in records[:MEMBERS_PER_REPLY]:
                    self._learn(record, peer, now)
            case m.Beat(record):
                self._take_beat(record, peer, now)
            case m.PushProof():
                self._convict(message, now)
            case m.PushRevocations(record):
                self._take_revocations(record, now)
            case m.PeerGone(gone, leaving):
                self._take_gone(peer, gone, now, leaving=leaving)

    def _records_of(self, words: tuple[bytes, ...]) -> tuple[Signed, ...]:
        """The records of these words, or ours and everyone's when none are named."""
        if not words:
            known = [entry.record for entry in self.view][: MEMBERS_PER_REPLY - 1]
            return (self._voice.record, *known)
        peers = (self.view.peer_of(word) for word in words[:WORDS_PER_QUESTION])
        entries = (self.view.get(peer) for peer in peers if peer is not None)
        return tuple(entry.record for entry in entries if entry is not None)

    def _take_ping(self, peer: PeerId, message: m.Ping | m.Pong, now: Now) -> None:
        if message.announcement is not None:
            self._learn(message.announcement, peer, now)
        rtt_s = None
        if isinstance(message, m.Pong):
            rtt_s = self._gossip.round_trip_s(peer, message.number, now.s)
        self._heard(peer, now, unix_s=message.unix_s, rtt_s=rtt_s)
        entry = self.view.get(peer)
        if entry is not None:
            entry.shown_word = message.seen
            entry.shown_beat = (message.plan_hash, message.beat)
        if isinstance(message, m.Ping):
            self._out.append(self._talk.pong(peer, message, now))
        else:
            self._out += self._talk.owed(peer, message)
        if message.news:
            words = message.news[:NEWS_TAKEN]
            asked = self._questions.worth(words, self.view, self._voice.word, now.s)
            if asked:
                self._send(peer, m.GetMembers(asked))
        for record in message.rumours[:RUMOURS_PER_MESSAGE]:
            self._learn(record, peer, now)
        if message.lease is not None:
            self._take_beat(message.lease, peer, now)
        if message.revocations < self.trust.serial and self.trust.revocations is not None:
            self._send(peer, m.PushRevocations(self.trust.revocations))
        wanted = self.adoption.wants(message.epoch, message.plan_hash, now)
        if wanted and self._pulls.ask(message.plan_hash, peer, now.s):
            self._send(peer, m.GetPlan(message.plan_hash))

    def _heard(
        self, peer: PeerId, now: Now, *, unix_s: float = 0.0, rtt_s: float | None = None
    ) -> None:
        if peer in self.view:
            self.view.heard(peer, now, unix_s=unix_s, rtt_s=rtt_s)
            self._heard_s = now.s

    def _take_record(self, record: Signed, now: Now) -> None:
        try:
            if record.kind == REVOCATIONS_KIND:
                self._take_revocations(record, now)
            else:
                self._learn(record, self._me, now)
        except HelixError as error:
            self._out.append(fx.MessageRefused(self._me, error))

    def _take_beat(self, record: Signed, peer: PeerId, now: Now) -> None:
        was_planner = self.election.is_planner
        self.election.on_beat(
            record,
            self.config.swarm,
            self.view.candidates,
            now.s,
            direct=record.signer == peer,
        )
        if was_planner and not self.election.is_planner:
            self._stepped_down("another candidate goes first")

    def _take_revocations(self, record: Signed, now: Now) -> None:
        if not self.trust.revoke(record):
            return
        self._out.append(fx.PersistRevocations(record))
        self._recheck_due_s = self._republish_due_s = now.s
        self._check_certificates(now)
        self._republish(now)
        for peer in self._talk.targets():
            self._send(peer, m.PushRevocations(record))

    def _check_certificates(self, now: Now) -> None:
        """Who was revoked or whose time is over is a member no longer, we ourselves included."""
        if now.s < self._recheck_due_s:
            return
        self._recheck_due_s = now.s + RECHECK_S
        for entry in list(self.view):
            try:
                self.trust.admit(entry.announcement.credentials, entry.peer, now.unix_s)
            except HandshakeRefused:
                if self.trust.revocations is not None:
                    self._send(entry.peer, m.PushRevocations(self.trust.revocations))  # tell it why
                self._lose(entry.peer, "banned", now)
        try:
            self.trust.admit(self.config.credentials, self._me, now.unix_s)
        except HandshakeRefused as error:
            if not self._expelled:
                self._out.append(fx.Expelled(error))
            self._expelled = True
        else:
            self._expelled = False

    def _republish(self, now: Now) -> None:
        """Keep the root's list in the DHT; few write it, and any of them will do."""
        record = self.trust.revocations
        if record is None or now.s < self._republish_due_s:
            return
        self._republish_due_s = now.s + self._timing.publish_s
        if self._rng.random() * (len(self.view) + 1) < REVOCATIONS_WRITERS:
            key, life_s = revocations_key(self.config.swarm), self._timing.record_life_s
            self._out.append(fx.PublishRecord(key, record.signer, record, life_s))

    def _take_gone(self, peer: PeerId, gone: PeerId, now: Now, *, leaving: bool) -> None:
        if leaving:
            if gone == peer and gone in self.view:
                self._lose(gone, "left", now)
            return
        if self.view.reported(gone, peer, now.s):
            self._disputes.add(gone, peer, now.s)
            self._check_members(now)

    # ── members ─────────────────────────────────────────────────────────────────────────────────

    def _learn(self, record: Signed, source: PeerId, now: Now) -> None:
        owner: PeerId | None = None
        try:
            owner = record.signer
            learned = self.view.learn(record, now, direct=owner == source)
        except HelixError as error:
            self._out.append(fx.MessageRefused(source, error))
            if isinstance(error, HandshakeRefused) and owner is not None and owner in self.view:
                self._lose(owner, "banned", now)
            return
        self._questions.answered(word_of(record, self.config.swarm))
        if learned is None:
            return
        match learned.news:
            case News.JOINED:
                self._out.append(fx.MemberJoined(owner, learned.announcement))
                self._gossip.spread(owner, len(self.view))
                self._membership_changed(now)
                if len(self.view) <= 3:
                    self._send(owner, m.GetMembers())
            case News.CHANGED:
                self._out.append(fx.MemberChanged(owner, learned.announcement))
                self._gossip.spread(owner, len(self.view))
                out = learned.announcement.state not in PLANNABLE
                if out:
                    self.election.on_gone(owner, now.s)
                if learned.weighty:
                    self._membership_changed(now, lost=owner if out else None)
            case News.LEFT:
                self._lost(owner, "left", now)
            case News.CONTACT:
                if self.plan is None:
                    self._changed_s = now.s  # wait for its answer before the first plan
            case News.NOTHING | News.REFRESHED:
                pass
        if owner == source and learned.news is not News.NOTHING:
            for doubter in self._disputes.doubters(owner, now.s):
                self._send(doubter, m.MembersReply((record,)))

    def _check_members(self, now: Now) -> None:
        watched = self._talk.watched()
        for peer, verdict in self.view.check(now, watched):
            match verdict:
                case Verdict.PROBE:
                    self._ping(peer, now)
                case Verdict.REPORT:
                    self._report(peer)
                case Verdict.EVICT:
                    self._lose(peer, "lost", now)
                case Verdict.NOTHING:
                    pass
        self.view.expire(now)

    def _report(self, peer: PeerId) -> None:
        """Say that a probe failed, to the planner above all: it acts on it."""
        told = dict.fromkeys(self._talk.targets())
        holder = self.election.holder
        if holder is not None and holder in self.view:
            told[holder] = None
        for other in told:
            if other != peer:
                self._send(other, m.PeerGone(peer, leaving=False))

    def _lose(self, peer: PeerId, reason: str, now: Now) -> None:
        self.view.forget(peer, now, heard_only=reason == "lost")
        self._lost(peer, reason, now)

    def _lost(self, peer: PeerId, reason: str, now: Now) -> None:
        self._out.append(fx.MemberLost(peer, reason))
        self.election.on_gone(peer, now.s)
        self._membership_changed(now, lost=peer)

    def _convict(self, proof: m.PushProof, now: Now) -> None:
        peer = self.trust.convict(proof)
        if peer is None:
            return
        self._out.append(fx.Banned(peer, proof))
        if peer in self.view:
            self._lose(peer, "banned", now)
        self.election.on_gone(peer, now.s)
        for other in self._talk.targets():
            self._send(other, proof)

    def _membership_changed(self, now: Now, lost: PeerId | None = None) -> None:
        self._changed_s = now.s
        if self.election.is_planner:
            if lost is not None:
                self._duty.lost(lost, now)
            else:
                self._duty.joined(now)

    def _check_clock(self) -> None:
        offset_s = self.view.clock_offset_s()
        skewed = offset_s is not None and abs(offset_s) > self._timing.skew_s
        if skewed != self._skewed:
            self._skewed = skewed
            self._out.append(fx.ClockSkewed(offset_s if skewed else None))

    def _send(self, peer: PeerId, message: MemberMessage) -> None:
        self._out.append(fx.SendTo(peer, message))

    def _ping(self, peer: PeerId, now: Now) -> None:
        self._out.append(self._talk.ping(peer, now))

    def _drain(self) -> Effects:
        out, self._out = tuple(self._out), []
        return out

    # ── plans ───────────────────────────────────────────────────────────────────────────────────

    def _offer(self, record: Signed, source: PeerId, now: Now) -> Offer | None:
        plan_hash = hash_of_plan(record.body)
        self._pulls.done(plan_hash)
        if self.trust.banned(record.signer):
            if source != self._me:
                self._send(source, self._why_banned(record.signer))  # it does not know yet
            followed = source in self.view and self.adoption.overtake(record, now)
            if followed and self.is_planner:
                self._duty.begin(now, anew=True)  # who followed it is to follow us
            error = PlanRejected("planner", "its key is banned")
            self._out.append(fx.PlanRefused(source, plan_hash, error))
            return None
        try:
            outcome, plan = self.adoption.offer(record, now)
        except Equivocation as lie:
            self._convict(lie.proof, now)
            return None
        except HelixError as error:
            self._out.append(fx.PlanRefused(source, plan_hash, error))
            return None
        if outcome is Offer.PERSIST:
            self._out.append(fx.PersistHighWater(mark_of(plan)))
        return outcome

    def _why_banned(self, peer: PeerId) -> m.PushProof | m.PushRevocations:
        proof = self.trust.proofs.get(peer)
        if proof is not None:
            return proof
        assert self.trust.revocations is not None
        return m.PushRevocations(self.trust.revocations)

    def _validate(self, signed: SignedPlan, now_unix_s: float) -> None:
        """The rules that all share, after the planner's own right to plan.

        That right is read from the announcement in the plan and the root's list. The list is not
        the same everywhere at once, but it soon is; so honest peers disagree on a revoked planner's
        plan for seconds, never for ever.
        """
        plan = signed.plan
        word = next((r for r in plan.announcements if r.signer == plan.planner), None)
        if word is None:
            raise PlanRejected("planner", "its planner's announcement is missing")
        said = open_announcement(word, self.config.swarm)
        try:
            roles = self.trust.admit(said.credentials, plan.planner, now_unix_s)
        except HandshakeRefused as error:
            raise PlanRejected("planner", str(error)) from error
        if Role.PLANNER not in roles:
            raise PlanRejected("planner", f"{plan.planner} may not plan")
        self.config.validate(signed, now_unix_s)

    def _adopted(self, plan: SignedPlan, previous: SignedPlan | None, now: Now) -> None:
        was_planner = self.is_planner
        self.election.on_plan(plan, now.s)
        if was_planner and not self.is_planner:
            self._stepped_down("a higher plan holds")
        elif self.is_planner and not was_planner:
            self._begin("it made the plan that holds", now)
        planner = plan.plan.planner
        if self.view.is_gone(planner) or self.trust.banned(planner):
            self.election.on_gone(planner, now.s)
        self._audit.adopted(plan, now.s)
        self._out.append(fx.Adopted(plan, previous))
        targets = self._talk.targets()
        if planner == self._me:
            for peer in targets:
                self._send(peer, m.PushPlan(plan.record))
            self._out.append(fx.PlanPushed(plan, len(targets)))
        else:
            for peer in targets[: self.config.fan_out]:
                if peer != planner:
                    self._ping(peer, now)

    # ── planning ────────────────────────────────────────────────────────────────────────────────

    def _elect(self, now: Now) -> None:
        around = Surroundings(
            candidates=self.view.candidates,
            others=len(self.view),
            heard_s=self._heard_s,
            changed_s=self._changed_s,
            able=(
                self._may_plan
                and not self._skewed
                and not self._expelled
                and self._voice.own.state in PLANNABLE
                and (self._looked_up or len(self.view) > 0)
                and (self.election.is_planner or not len(self._pulls))
            ),
        )
        match self.election.tick(around, now.s):
            case Step.STEP_IN:
                self._begin("it is first in rank and nobody plans", now)
                self._beat(now)
            case Step.STEP_DOWN:
                self._stepped_down("it hears nobody, or may not plan now")
            case Step.BEAT:
                self._beat(now)
            case None:
                pass

    def _beat(self, now: Now) -> None:
        lease = self.election.beat(now.unix_s, now.s)
        record = self.config.identity.sign(LEASE_KIND, self.config.swarm, codec.encode(lease))
        self.election.latest_beat, self.election.latest_number = record, lease.number
        for peer in self._talk.targets():
            self._send(peer, m.Beat(record))

    def _begin(self, why: str, now: Now) -> None:
        self._duty.begin(now)
        self._out.append(fx.BecamePlanner(why))

    def _stepped_down(self, reason: str) -> None:
        self._duty.end()
        self._out.append(fx.SteppedDown(reason))

    def _plan(self, now: Now) -> None:
        if not self.election.is_planner:
            return
        job = self._duty.start(now)
        if isinstance(job, fx.StartPlanning):
            self._out.append(job)
        elif job is not None:
            self._planning_failed(job, now)

    def _planning_failed(self, error: HelixError, now: Now) -> None:
        self._out.append(fx.PlanningFailed(error))
        if not isinstance(error, CapacityError):
            self._duty.again(now)
        elif self.election.on_unsolvable(self.view.candidates(), now.s):
            self._stepped_down("no plan is possible, and another is first in rank")
