"""Our part of the conversation: pings and answers, what they carry, and what the DHT is told.

Always: pings per period are bounded (gossip.py), and a change of ours is told at once (voice.py).
"""

from typing import TypeVar

from helix_p2p.cluster.announcement import WORD_BYTES
from helix_p2p.identity import Signed
from helix_p2p.membership import messages as m
from helix_p2p.membership.adoption import Adoption
from helix_p2p.membership.announced import Announced
from helix_p2p.membership.disputes import Disputes
from helix_p2p.membership.effects import Effect, LookUpMembers, PublishRecord, SendTo
from helix_p2p.membership.election import Election
from helix_p2p.membership.gaps import CONTENTS_PER_QUESTION
from helix_p2p.membership.gossip import Gossip
from helix_p2p.membership.own import MemberConfig
from helix_p2p.membership.records import allowed_keys, life_left_s, member_key
from helix_p2p.membership.timing import Now
from helix_p2p.membership.trust import Trust
from helix_p2p.membership.view import MembershipView
from helix_p2p.membership.voice import Voice
from helix_p2p.types import PeerId

_Word = TypeVar("_Word", m.Ping, m.Pong)

CONTACTS_PER_TICK = 16
LOST_PER_ROUND = 2
LOOK_UP_STRETCH_MEMBERS = 32
"""Above so many members the DHT is read less often, in proportion: one read costs 1 kB a member."""
MEMBERS_PER_REPLY = 256
REPLY_LIMIT_BYTES = 512 * 1024
NEWS_PER_MESSAGE = 24
IN_TURN_PER_MESSAGE = 8
"""Words of members that are told in turn, so that who missed the news still learns of it."""


class Talk:
    """See the module's description.

    Args:
        config: What does not change.
        voice: Our announcements.
        gossip: Whom to tell.
        view: Who is here.
        adoption: Which plan we mention.
        election: Whose beat we pass on.
        trust: Which list of revocations we mention.
        disputes: Who is doubted, and is therefore asked for a fresh word.
        announced: Announcements by what they say.
        now: Time.
    """

    def __init__(
        self,
        config: MemberConfig,
        voice: Voice,
        gossip: Gossip,
        view: MembershipView,
        adoption: Adoption,
        election: Election,
        trust: Trust,
        disputes: Disputes,
        announced: Announced,
        now: Now,
    ) -> None:
        self._trust = trust
        self._config = config
        self._timing = config.timing
        self._voice = voice
        self._gossip = gossip
        self._view = view
        self._adoption = adoption
        self._election = election
        self._disputes = disputes
        self._announced = announced
        self._turn = 0
        self._ping_due_s = self._publish_due_s = self._look_up_due_s = now.s

    def watched(self) -> list[PeerId]:
        """Whom we ping every period."""
        return self._gossip.watched(self._view.ring)

    def targets(self) -> list[PeerId]:
        """Whom to tell what everyone is to know."""
        return self._gossip.targets(self._view.ring)

    @property
    def among_many(self) -> bool:
        """Whether not everyone is pinged."""
        return self._gossip.is_large(self._view.ring)

    def some(self, most: int) -> list[PeerId]:
        """Whom to tell at once what is quickly known by all if everyone tells some."""
        return self._gossip.some(self._view.ring, most)

    def ping(self, peer: PeerId, now: Now) -> SendTo:
        """A ping, to be answered."""
        number = self._gossip.ping_sent(peer, now.s)
        entry = self._view.get(peer)
        large = self._gossip.is_large(self._view.ring)
        known = entry.shown_beat if entry is not None else None
        # In a large swarm nearly everyone has the beat; who shows in its answer that it lacks it
        # gets it then.
        wants_beat = known != self._shown_beat() and not (large and known is None)
        return SendTo(peer, self._said(m.Ping, peer, number, now, lease=wants_beat))

    def pong(self, peer: PeerId, ping: m.Ping, now: Now) -> SendTo:
        """The answer to a ping."""
        if not ping.seen:
            self._voice.freshen(self._adoption.current, now)
        lacks = (ping.plan_hash, ping.beat) != self._shown_beat()
        return SendTo(peer, self._said(m.Pong, peer, ping.number, now, lease=lacks))

    def owed(self, peer: PeerId, pong: m.Pong) -> list[Effect]:
        """What the answer to our ping shows that the other lacks."""
        out: list[Effect] = []
        if pong.seen != self._voice.word:
            out.append(SendTo(peer, m.MembersReply((self._voice.record,))))
        plan_hash, number = self._shown_beat()
        latest = self._election.latest_beat
        if latest is not None and pong.plan_hash == plan_hash and pong.beat < number:
            out.append(SendTo(peer, m.Beat(latest)))
        return out

    def known(self, words: tuple[bytes, ...]) -> m.MembersReply:
        """The records of these words or contents, or ours and everyone's when none are named."""
        if not words:
            records = [entry.record for entry in self._view][: MEMBERS_PER_REPLY - 1]
            return m.MembersReply((self._voice.record, *records))
        found = (self._record_of(word) for word in words[:CONTENTS_PER_QUESTION])
        reply: list[Signed] = []
        size_bytes = 0
        for record in found:
            if record is not None:
                size_bytes += len(record.body)
                if size_bytes > REPLY_LIMIT_BYTES:
                    break
                reply.append(record)
        return m.MembersReply(tuple(reply))

    def _record_of(self, word: bytes) -> Signed | None:
        """By its word, or by its whole content (which a plan refers to)."""
        if len(word) > WORD_BYTES:
            return self._announced.find(word)
        peer = self._view.peer_of(word)
        entry = self._view.get(peer) if peer is not None else None
        return entry.record if entry is not None else None

    def _shown_beat(self) -> tuple[bytes, int]:
        plan = self._adoption.current
        return (plan.hash if plan else b"", self._election.latest_number)

    def tick(self, now: Now) -> list[Effect]:
        """Ping when a period is over, or at once when there is something to tell."""
        out: list[Effect] = []
        told = self._voice.take_due(now.s)
        if told or now.s >= self._ping_due_s:
            self._ping_due_s = now.s + self._timing.ping_s
            called = [*self.targets(), *self._view.lost_to_ping(LOST_PER_ROUND)]
            out += [self.ping(peer, now) for peer in called]
        contacts = self._view.contacts_to_ping(now.s, CONTACTS_PER_TICK)
        out += [self.ping(peer, now) for peer in contacts]
        if now.s >= self._publish_due_s:
            self._voice.renew(self._adoption.current, now)
            told = True
        if told:
            out.append(self.publish(now))
        if now.s >= self._look_up_due_s:
            out.append(self._look_up(now))
        return out

    def publish(self, now: Now) -> PublishRecord:
        """Our announcement, for the DHT."""
        self._publish_due_s = now.s + self._timing.publish_s
        said, me = self._voice.announcement, self._config.identity.peer_id
        life_s = life_left_s(said, now.unix_s, self._timing.record_life_s)
        return PublishRecord(member_key(self._config.swarm, me), me, self._voice.record, life_s)

    def _look_up(self, now: Now) -> LookUpMembers:
        timing, known = self._timing, len(self._view)
        period_s = timing.look_up_s if known else timing.look_up_alone_s
        self._look_up_due_s = now.s + period_s * max(1.0, known / LOOK_UP_STRETCH_MEMBERS)
        return LookUpMembers(allowed_keys(self._config.swarm))

    def _said(self, kind: type[_Word], to: PeerId, number: int, now: Now, *, lease: bool) -> _Word:
        """A ping or a pong."""
        entry = self._view.get(to)
        knows_us = entry is not None and entry.shown_word == self._voice.word
        asks_anew = entry is None or self._disputes.is_doubted(to, now.s)
        rumours, news = self._news(to)
        plan_hash, beat = self._shown_beat()
        plan = self._adoption.current
        return kind(
            epoch=int(plan.plan.epoch) if plan else 0,
            plan_hash=plan_hash,
            announcement=None if knows_us else self._voice.record,
            number=number,
            unix_s=now.unix_s,
            rumours=rumours,
            lease=self._election.latest_beat if lease else None,
            revocations=self._trust.serial,
            seen=b"" if asks_anew or entry is None else entry.word,
            news=news,
            beat=beat,
            gone=self._gossip.gone() if news else (),
        )

    def _news(self, to: PeerId) -> tuple[tuple[Signed, ...], tuple[bytes, ...]]:
        """What changed lately: in a small swarm the records themselves, in a large one words."""
        ring = self._view.ring
        if not self._gossip.is_large(ring):
            entries = (self._view.get(peer) for peer in self._gossip.rumours(to))
            return tuple(entry.record for entry in entries if entry is not None), ()
        start, self._turn = self._turn, self._turn + IN_TURN_PER_MESSAGE
        if self._turn >= len(ring):
            self._turn = 0
        told = [*self._gossip.rumours(to, NEWS_PER_MESSAGE), *ring[start : self._turn or None]]
        return (), self._view.words_of(told, to)
