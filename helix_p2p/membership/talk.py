"""Our part of the conversation: pings and answers, what they carry, and what the DHT is told.

Always: pings per period are bounded (gossip.py), and a change of ours is told at once (voice.py).
"""

from typing import TypeVar

from msgspec.structs import replace

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
from helix_p2p.membership.records import (
    SHARDS,
    life_left_s,
    member_key,
    member_keys,
    members_key,
    revocations_key,
    shard_of,
)
from helix_p2p.membership.timing import Now
from helix_p2p.membership.trust import Trust
from helix_p2p.membership.view import MembershipView
from helix_p2p.membership.voice import Voice
from helix_p2p.types import PeerId

_Word = TypeVar("_Word", m.Ping, m.Pong)

CONTACTS_PER_TICK = 16
SURELY_HEARD_S = 60.0
"""What we say has reached nearly everyone by then."""
LOST_PER_ROUND = 2
UNHEARD_PER_ROUND = 4
LOST_CALLED_BY = 64
"""In each period so many members call two of the lost, whatever the swarm's size: when a partition
heals, one that hears another is enough."""
RARE_PINGS_FROM = 512
PING_STRETCH = 1.5
"""With more members than that pings are rarer, and a silent crash is noticed seconds later: nearly
all of what a member does there is to hear of others."""
LOOK_UP_WHOLE_UP_TO = 32
LOOK_UP_STRETCH_MEMBERS = 64
"""With more members one shard of the DHT is read at a time, and with more still less often: what
one member finds there all soon know, and a read costs 1 kB for each member in it."""
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
        self._watched: list[PeerId] = []
        self._watched_version = -1
        self._shard = shard_of(config.identity.peer_id)
        self._ping_due_s = self._publish_due_s = self._look_up_due_s = now.s

    def watched(self) -> list[PeerId]:
        """Whom we ping every period."""
        version = self._view.ring_version
        if version != self._watched_version:
            self._watched_version = version
            self._watched = self._gossip.watched(self._view.ring)
        return self._watched

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

    def ping(self, peer: PeerId, now: Now, *, probe: bool = False) -> SendTo:
        """A ping, to be answered; a probe of who may be gone tells no news."""
        number = self._gossip.ping_sent(peer, now.s)
        entry = self._view.get(peer)
        shown = entry.shown_beat if entry is not None else None
        # In a large swarm nearly everyone has the beat; who shows in its answer that it lacks it
        # gets it then.
        lacks = self._lacks_beat(shown) if shown is not None else not self.among_many
        return SendTo(peer, self._said(m.Ping, peer, number, now, lease=lacks, news=not probe))

    def pong(self, peer: PeerId, ping: m.Ping, asks: tuple[bytes, ...], now: Now) -> SendTo:
        """The answer to a ping; `asks` are those of its words whose records we lack."""
        if not ping.seen:
            self._voice.freshen(self._adoption.current, now)
        lacks = self._lacks_beat((ping.plan_hash, ping.beat))
        pong = self._said(m.Pong, peer, ping.number, now, lease=lacks, news=True)
        return SendTo(peer, replace(pong, asks=asks) if asks else pong)

    def owed(self, peer: PeerId, pong: m.Pong) -> list[Effect]:
        """What the answer to our ping shows that the other lacks."""
        out: list[Effect] = []
        told = self.known(pong.asks).announcements if pong.asks else ()
        if pong.seen != self._voice.word:
            told = (self._voice.record, *told)
        if told:
            out.append(SendTo(peer, m.MembersReply(told)))
        latest = self._election.latest_beat
        if latest is not None and self._lacks_beat((pong.plan_hash, pong.beat)):
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

    def _lacks_beat(self, shown: tuple[bytes, int]) -> bool:
        """Whether who showed this has use for the latest beat: it builds on the plan it follows."""
        plan_hash, number = self._shown_beat()
        return shown[0] == plan_hash and shown[1] < number

    def tick(self, now: Now) -> list[Effect]:
        """Ping when a period is over, or at once when there is something to tell."""
        out: list[Effect] = []
        told = self._voice.take_due(now.s)
        if told or now.s >= self._ping_due_s:
            stretch = PING_STRETCH if len(self._view) > RARE_PINGS_FROM else 1.0
            self._ping_due_s = now.s + stretch * self._timing.ping_s
            called = [*self.targets(), *self._view.lost_to_ping(self._lost_to_call())]
            called += [p for p in self._view.unheard_to_ping(UNHEARD_PER_ROUND) if p not in called]
            out += [self.ping(peer, now) for peer in called]
        contacts = self._view.contacts_to_ping(now, CONTACTS_PER_TICK)
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

    def found(self, records: int, now: Now) -> None:
        """The DHT named so many; a swarm's worth is enough for a while."""
        if records > LOOK_UP_WHOLE_UP_TO:
            self._look_up_due_s = max(self._look_up_due_s, now.s + self._timing.look_up_s)

    def _look_up(self, now: Now) -> LookUpMembers:
        timing, known = self._timing, len(self._view)
        period_s = timing.look_up_s if known else timing.look_up_alone_s
        self._look_up_due_s = now.s + period_s * max(1.0, known / LOOK_UP_STRETCH_MEMBERS)
        swarm = self._config.swarm
        if known <= LOOK_UP_WHOLE_UP_TO:
            return LookUpMembers((*member_keys(swarm), revocations_key(swarm)))
        self._shard = (self._shard + 1) % SHARDS
        return LookUpMembers((members_key(swarm, self._shard), revocations_key(swarm)))

    def _lost_to_call(self) -> int:
        share = min(1.0, LOST_CALLED_BY / (len(self._view) + 1))
        return self._gossip.by_lot(LOST_PER_ROUND * share)

    def _said(
        self, kind: type[_Word], to: PeerId, number: int, now: Now, *, lease: bool, news: bool
    ) -> _Word:
        """A ping or a pong."""
        entry = self._view.get(to)
        large = self._gossip.is_large(self._view.ring)
        state = self._voice.own.state
        knows_us = entry is not None and (
            (entry.shown_word == self._voice.word and (large or entry.told_state is state))
            # Of many, nearly all hold our word; who shows in its answer that it does not
            # gets it then.
            or (large and entry.shown_word is None and now.s >= self._voice.told_s + SURELY_HEARD_S)
        )
        if entry is not None:
            entry.told_state = state
        asks_anew = entry is None or self._disputes.is_doubted(to, now.s)
        rumours, words = self._news(to) if news else ((), ())
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
            news=words,
            beat=beat,
            gone=self._gossip.gone() if words else (),
        )

    def _news(self, to: PeerId) -> tuple[tuple[Signed, ...], tuple[bytes, ...]]:
        """What changed lately: in a small swarm the records themselves, in a large one words."""
        ring = self._view.ring
        if not self._gossip.is_large(ring):
            return tuple([entry.record for entry in self._gossip.rumours(to)]), ()
        start, self._turn = self._turn, self._turn + IN_TURN_PER_MESSAGE
        if self._turn >= len(ring):
            self._turn = 0
        news = [entry.word for entry in self._gossip.rumours(to, NEWS_PER_MESSAGE)]
        return (), (*news, *self._view.words_in_turn(start, self._turn or None, to))
