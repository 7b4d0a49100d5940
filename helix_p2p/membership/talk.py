"""Our part of the conversation: pings and answers, what they carry, and what the DHT is told.

Always: pings per period are bounded (gossip.py), and a change of ours is told at once (voice.py).
"""

from helix_p2p.identity import Signed
from helix_p2p.membership import messages as m
from helix_p2p.membership.adoption import Adoption
from helix_p2p.membership.effects import Effect, LookUpMembers, PublishRecord, SendTo
from helix_p2p.membership.election import Election
from helix_p2p.membership.gossip import Gossip
from helix_p2p.membership.own import MemberConfig
from helix_p2p.membership.records import allowed_keys, life_left_s, member_key
from helix_p2p.membership.timing import Now
from helix_p2p.membership.trust import Trust
from helix_p2p.membership.view import MembershipView
from helix_p2p.membership.voice import Voice
from helix_p2p.types import PeerId

CONTACTS_PER_TICK = 16
LOST_PER_ROUND = 2
LOOK_UP_STRETCH_MEMBERS = 1000
"""Above so many members the DHT is read less often, in proportion: one read costs 1 kB a member."""


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
        self._ping_due_s = self._publish_due_s = self._look_up_due_s = now.s

    def watched(self) -> list[PeerId]:
        """Whom we ping every period."""
        return self._gossip.watched(self._view.ring)

    def targets(self) -> list[PeerId]:
        """Whom to tell what everyone is to know."""
        return self._gossip.targets(self._view.ring)

    def ping(self, peer: PeerId, now: Now) -> SendTo:
        """A ping, to be answered."""
        number = self._gossip.ping_sent(peer, now.s)
        return SendTo(peer, m.Ping(*self._word(peer, number, now)))

    def pong(self, peer: PeerId, number: int, now: Now) -> SendTo:
        """The answer to a ping with this number."""
        return SendTo(peer, m.Pong(*self._word(peer, number, now)))

    def tick(self, now: Now) -> list[Effect]:
        """Ping when a period is over, or at once when there is something to tell."""
        out: list[Effect] = []
        told = self._voice.take_due(now.s)
        if told or now.s >= self._ping_due_s:
            self._ping_due_s = now.s + self._timing.ping_s
            self._voice.renew(self._adoption.current, now)
            called = [*self.targets(), *self._view.lost_to_ping(LOST_PER_ROUND)]
            out += [self.ping(peer, now) for peer in called]
        contacts = self._view.contacts_to_ping(now.s, CONTACTS_PER_TICK)
        out += [self.ping(peer, now) for peer in contacts]
        if told or now.s >= self._publish_due_s:
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

    def _word(
        self, to: PeerId, number: int, now: Now
    ) -> tuple[int, bytes, Signed, int, float, tuple[Signed, ...], Signed | None, int]:
        """The fields of a ping or pong."""
        plan = self._adoption.current
        entries = (self._view.get(peer) for peer in self._gossip.rumours(to))
        return (
            int(plan.plan.epoch) if plan else 0,
            plan.hash if plan else b"",
            self._voice.record,
            number,
            now.unix_s,
            tuple(entry.record for entry in entries if entry is not None),
            self._election.latest_beat,
            self._trust.serial,
        )
