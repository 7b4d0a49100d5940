"""Who is in the swarm, as one peer sees it: who lives, what they serve, their clocks.

A member is someone whose own voice was heard, or whose sequence was seen to rise: a record that
merely lies in the DHT makes its owner a contact, to be pinged, and not yet a member. So a ghost's
last record brings nobody back.

Where nobody vouches, on the internet, a rising sequence proves a key and no peer: of those who were
only told of there is room for so many (`crowd`), they are called until they answer, and who does
not answer is given up.

This is where records come in and are judged, and members are lost; `roster` answers what is asked
of them, and `outsiders` keeps who is not a member yet, or not any more.

Always: a member's announcement never gets older, by (incarnation, sequence); freshness is measured
on this reader's monotonic clock; nobody is a member and an outsider at once.
"""

from collections.abc import Callable, Collection, Iterable

from helix_p2p.cluster.announcement import (
    PROTOCOL_VERSION,
    Announcement,
    PeerState,
    Reading,
    reading_of,
)
from helix_p2p.errors import RecordRejected
from helix_p2p.identity import Signed
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.crowd import Crowd, is_public
from helix_p2p.membership.detector import Condition, Detector, Verdict
from helix_p2p.membership.entry import MemberEntry
from helix_p2p.membership.learned import Learned, News
from helix_p2p.membership.outsiders import Outsiders
from helix_p2p.membership.plannable import PLANNABLE, weighty_change
from helix_p2p.membership.roster import Roster
from helix_p2p.membership.timing import MembershipTiming, Now
from helix_p2p.types import PeerId

YOUNG_S = 45.0
"""A record is signed anew every 30 s; who died since is found out by those who watch it."""
UNHEARD_TRIES = 3
READMIT_S = 60.0
"""How often a member's certificate is checked again, for its expiry."""


class MembershipView(Roster):
    """The swarm as this peer sees it, without this peer itself.

    Args:
        me: This peer; its own records are ignored.
        swarm: Swarm id.
        manifest_hash: Our model; empty takes members of any.
        admit: `admit(credentials, peer, now_unix_s)` gives roles, or raises `HandshakeRefused`.
        timing: Durations.
        most_members: More are not kept.
        many: In swarms larger than this a record that is young enough makes its owner a member;
            there everyone is watched by some, and not each newcomer can be pinged by all. None
            never believes a record alone.
        limited: Whether only so many of one range of addresses are kept (an open swarm).
            Those who were only told of count as one range, once `locate` says that the swarm is on
            the internet.
    """

    def __init__(
        self,
        me: PeerId,
        swarm: str,
        manifest_hash: str,
        admit: Callable[[bytes, PeerId, float], frozenset[Role]],
        timing: MembershipTiming,
        most_members: int,
        many: int | None = None,
        *,
        limited: bool = False,
    ) -> None:
        super().__init__(manifest_hash, timing)
        self._me = me
        self._swarm = swarm
        self._admit = admit
        self._most_members = most_members
        self._many = many
        self._crowd = Crowd(limited=limited)
        self._limited = limited
        self._unheard: dict[PeerId, int] = {}
        """Members that were only told of, with how often they were called."""
        self._outsiders = Outsiders(timing, most_members, limited=limited)

    def contacts_to_ping(self, now: Now, most: int) -> list[PeerId]:
        """Peers of whom only a record is known; a ping shows whether they live.

        Each is pinged once a period, and given up after a few silent ones. Who is about to be
        believed is not.
        """
        believes = self._believes and self._crowd.has_room_for_unheard
        before_unix_s = now.unix_s - YOUNG_S if believes else None
        return self._outsiders.contacts_to_ping(now.s, most, before_unix_s)

    @property
    def contacts(self) -> int:
        """Of how many only a record is known."""
        return self._outsiders.contacts

    def believable(self, now: Now, most: int) -> list[Signed]:
        """Records of contacts that so large a swarm believes; they are to be learned again."""
        return self._outsiders.young(now.unix_s, YOUNG_S, most) if self._believes else []

    @property
    def _believes(self) -> bool:
        return self._many is not None and len(self._members) >= self._many

    def lost_to_ping(self, most: int) -> list[PeerId]:
        """Members that fell silent, in turn: when a partition heals, someone has to call first."""
        return self._outsiders.lost_to_ping(most)

    def locate(self, addresses: Iterable[str]) -> None:
        """Addresses of ours, or of our ways in: where the swarm is, as far as they tell."""
        if is_public(addresses):
            self._crowd.public = True
            self._outsiders.public = True

    def unheard_to_ping(self, most: int) -> list[PeerId]:
        """Members that were only told of, in turn: an answer makes them members like others."""
        called = [peer for peer, tries in self._unheard.items() if tries <= UNHEARD_TRIES][:most]
        for peer in called:
            self._unheard[peer] = self._unheard.pop(peer) + 1
        return [peer for peer in called if self._unheard[peer] <= UNHEARD_TRIES]

    def never_answered(self) -> list[PeerId]:
        """Those who were called often enough."""
        return [peer for peer, tries in self._unheard.items() if tries > UNHEARD_TRIES]

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        """Where a member, a contact or a lost member said it is reached."""
        entry = self._members.get(peer)
        if entry is not None:
            return entry.announcement.addresses
        return self._outsiders.addresses_of(peer)

    # ── learning ────────────────────────────────────────────────────────────────────────────────

    def learn(self, record: Signed, now: Now, *, direct: bool) -> Learned | None:
        """Take an announcement.

        Args:
            record: From anywhere.
            now: Time.
            direct: Whether its owner itself sent it, just now.

        Returns:
            What it brought; None when it is our own.

        Raises:
            SignatureError, DecodeError, RecordRejected, HandshakeRefused: It does not hold.
        """
        peer = record.signer
        if peer == self._me:
            return None
        entry = self._members.get(peer)
        if entry is not None and record.body == entry.record.body:
            return Learned(News.NOTHING, entry.announcement)
        reading = reading_of(record, self._swarm)
        said = reading.announcement
        self._check_fits(said)
        known = entry.announcement.order if entry else None
        last = self._outsiders.last_word(peer)
        if last is not None:
            known = max(known or last, last)
        if known is not None and said.order <= known:
            return Learned(News.NOTHING, said)
        if said.state is PeerState.LEFT:
            return self._leave(peer, said, now)
        if entry is not None:
            return self._update(entry, record, reading, now, direct=direct)
        return self._join(peer, record, reading, now, direct=direct)

    def _check_fits(self, said: Announcement) -> None:
        if said.protocol_version != PROTOCOL_VERSION:
            raise RecordRejected(f"it speaks protocol version {said.protocol_version}")
        other = self._manifest_hash and said.manifest_hash not in ("", self._manifest_hash)
        if other:
            raise RecordRejected("it serves another model")

    def _leave(self, peer: PeerId, said: Announcement, now: Now) -> Learned:
        was_member = peer in self._members
        # Of who was never here nothing is remembered: keys cost nothing to make up.
        if was_member or self._outsiders.knows(peer):
            self._bury(peer, said, now.s, heard_only=False)
        return Learned(News.LEFT if was_member else News.NOTHING, said)

    def _update(
        self, entry: MemberEntry, record: Signed, reading: Reading, now: Now, *, direct: bool
    ) -> Learned:
        old, said, word = entry.announcement, reading.announcement, reading.word
        if said.addresses != old.addresses:
            self._check_crowd(entry.peer, said)
        if said.credentials != old.credentials or now.s - entry.admitted_s > READMIT_S:
            entry.roles = self._admit(said.credentials, entry.peer, now.unix_s)
            entry.admitted_s = now.s
        content, before = reading.content, entry.content
        self._signs(entry, record, content)
        entry.announcement = said
        if said.addresses != old.addresses:
            self._crowd.add(entry.peer, said.addresses, heard=entry.peer not in self._unheard)
        if not direct:
            age_s = max(0.0, now.unix_s + (entry.skew_s or 0.0) - said.issued_unix_s)
            entry.detector.rose(now.s - age_s)
        if word == entry.word:
            news = News.REFRESHED if said.state is old.state else News.CHANGED
            return Learned(news, said, lasting=False)
        self._says(entry, word)
        if said.incarnation != old.incarnation:
            entry.joined_s = now.s
        self._liveness.note(entry)
        able = (old.state in PLANNABLE) == (said.state in PLANNABLE)
        weighty = not (able and content == before) and weighty_change(old, said)
        changed = weighty or (said.state, said.serving) != (old.state, old.serving)
        return Learned(News.CHANGED if changed else News.REFRESHED, said, weighty)

    def _join(
        self, peer: PeerId, record: Signed, reading: Reading, now: Now, *, direct: bool
    ) -> Learned:
        said = reading.announcement
        roles = self._admit(said.credentials, peer, now.unix_s)
        if Role.PEER not in roles:
            raise RecordRejected("its owner is not admitted as a peer")
        self._check_crowd(peer, said)
        seen = self._outsiders.seen(peer)
        rises = seen is not None and said.order > seen
        age_s = now.unix_s - said.issued_unix_s
        young = self._believes and abs(age_s) < YOUNG_S
        heard_only = self._outsiders.heard_only(peer)
        if young and heard_only:  # a new run is a newcomer: what we saw go was the one before
            last = self._outsiders.last_word(peer)
            heard_only = last is not None and said.incarnation <= last[0]
        room = self._crowd.has_room(peer, said.addresses, heard=direct)
        if not direct and (heard_only or not (rises or young) or not room):
            if seen is not None and not rises:
                return Learned(News.NOTHING, said)
            self._outsiders.meet(peer, record, said)
            return Learned(News.CONTACT, said)
        if len(self._members) >= self._most_members:
            raise RecordRejected(f"more than {self._most_members} members are not kept")
        self._outsiders.joined(peer)
        detector = Detector(self._timing, now.s)
        entry = MemberEntry(
            peer,
            record,
            said,
            roles,
            detector,
            joined_s=now.s,
            admitted_s=now.s,
            content=reading.content,
            word=reading.word,
        )
        self._enter(entry)
        self._crowd.add(peer, said.addresses, heard=direct)
        if not direct and self._limited and self._crowd.public:
            self._unheard[peer] = 0
        return Learned(News.JOINED, said, weighty=True)

    def _check_crowd(self, peer: PeerId, said: Announcement) -> None:
        if not self._crowd.has_room(peer, said.addresses):
            raise RecordRejected("enough peers of its range of addresses are known")

    def heard(self, peer: PeerId, now: Now, *, unix_s: float, rtt_s: float | None) -> None:
        """A message came from the member itself.

        Args:
            peer: Who.
            now: Time.
            unix_s: Its wall clock as it says; 0 when not said.
            rtt_s: Round trip, when the message answers one of ours.
        """
        entry = self._members.get(peer)
        if entry is None:
            return
        if self._unheard.pop(peer, None) is not None:
            self._crowd.add(peer, entry.announcement.addresses)
        self._now_s = now.s
        suspected = entry.detector.condition is not Condition.ALIVE
        entry.detector.heard(now.s)
        if suspected:
            self._liveness.note(entry)
        if unix_s > 0:
            entry.skew_s = unix_s - now.unix_s
        if rtt_s is not None:
            smooth = 1.0 if entry.rtt_s is None else 0.25
            entry.rtt_s = (entry.rtt_s or 0.0) * (1 - smooth) + rtt_s * smooth

    def has_met(self, peer: PeerId) -> bool:
        """Whether it is a member, or is known to have left or died."""
        return peer in self or self.is_gone(peer)

    def is_gone(self, peer: PeerId) -> bool:
        """Whether a member is known to have left or died."""
        return self._outsiders.last_word(peer) is not None

    def drop_contact(self, peer: PeerId) -> None:
        """A contact could not be reached."""
        self._outsiders.drop_contact(peer)

    # ── losing ──────────────────────────────────────────────────────────────────────────────────

    def check(self, now: Now, monitored: Collection[PeerId]) -> list[tuple[PeerId, Verdict]]:
        """Run every member's failure detector.

        Returns:
            Whom to probe, report or drop (`forget` them); those without need are left out.
        """
        self._now_s, self._unix_s = now.s, now.unix_s
        return self._liveness.check(self._members, self._ring, now.s, monitored)

    def check_one(
        self, peer: PeerId, now: Now, monitored: Collection[PeerId]
    ) -> list[tuple[PeerId, Verdict]]:
        """Likewise for one member."""
        self._now_s, self._unix_s = now.s, now.unix_s
        return self._liveness.check_one(self._members, peer, now.s, monitored)

    def link_lost(self, peer: PeerId, now_s: float) -> bool:
        """A stream to a member broke; whether it is a member."""
        entry = self._members.get(peer)
        if entry is None:
            return False
        entry.detector.link_lost(now_s)
        self._liveness.note(entry)
        return True

    def unreachable(self, peer: PeerId, now_s: float) -> bool:
        """A message could not be delivered; whether it was to a member that was ever heard."""
        entry = self._members.get(peer)
        if entry is None or peer in self._unheard:
            return False
        entry.detector.unreachable(now_s)
        self._liveness.note(entry)
        return True

    def reported(self, peer: PeerId, witness: PeerId, now_s: float) -> bool:
        """One member says that another is gone; whether both are members."""
        entry = self._members.get(peer)
        if entry is None or witness not in self._members or witness == peer:
            return False
        entry.detector.reported(witness, now_s)
        self._liveness.note(entry)
        return True

    def forget(self, peer: PeerId, now: Now, *, heard_only: bool) -> None:
        """A member is gone.

        Args:
            peer: Who.
            now: Time.
            heard_only: Only its own voice brings it back: we saw with our own eyes that it is gone.
        """
        entry = self._members.get(peer)
        if entry is not None:
            self._bury(peer, entry.announcement, now.s, heard_only=heard_only)

    def _bury(self, peer: PeerId, said: Announcement, now_s: float, *, heard_only: bool) -> None:
        if self._strike(peer):
            self._crowd.drop(peer)
            self._unheard.pop(peer, None)
        self._outsiders.bury(peer, said, now_s, heard_only=heard_only)

    def forgive(self, slept_s: float) -> None:
        """This peer itself stood still for so long."""
        for entry in self:
            entry.detector.forgive(slept_s)

    def expire(self, now: Now) -> None:
        """Forget those who are gone for long; their records can no longer be anywhere."""
        self._outsiders.expire(now.s)
