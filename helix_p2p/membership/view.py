"""Who is in the swarm, as one peer sees it: who lives, what they serve, their clocks.

A member is someone whose own voice was heard, or whose sequence was seen to rise: a record that
merely lies in the DHT makes its owner a contact, to be pinged, and not yet a member. So a ghost's
last record brings nobody back.

Always: a member's announcement never gets older, by (incarnation, sequence); freshness is measured
on this reader's monotonic clock.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from helix_p2p.cluster.announcement import (
    PROTOCOL_VERSION,
    Announcement,
    PeerState,
    open_announcement,
    word_of,
)
from helix_p2p.errors import RecordRejected
from helix_p2p.identity import Signed
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.detector import Condition, Detector, Verdict
from helix_p2p.membership.timing import MembershipTiming, Now
from helix_p2p.types import LayerRange, PeerId

PLANNABLE = frozenset({PeerState.STANDBY, PeerState.LOADING, PeerState.SERVING})
"""States in which a peer may be given layers."""
WEIGHTY_CHANGE = 0.2
"""Memory or speed that changes by less than this is not worth a new plan."""


CONTACT_TRIES = 4
CHECKED_AT_ONCE = 32
CHECKS_PER_ROUND = 128
"""Up to 32 members are all looked at each tick. Of more, those that nobody here pings and nobody
doubts are looked at in turn: all they can do is grow stale, and that takes minutes."""
STALE_STRETCH_MEMBERS = 64
"""With more members they may grow older before they are probed, so that probes stay few."""
OFFSET_KEPT_S = 1.0
YOUNG_S = 45.0
"""A record is signed anew every 30 s; who died since is found out by those who watch it."""
USED_UP_TO_S, USED_AHEAD_S = 800.0, 45.0
"""Plans may use words of up to 900 s, and of clocks that are at most 60 s ahead."""
EXPIRE_EVERY_S = 10.0
LOST_KEPT_S = 600.0
"""Longer than any record lives, and than most partitions last."""
READMIT_S = 60.0
"""How often a member's certificate is checked again, for its expiry."""


class News(Enum):
    """What an announcement brought."""

    NOTHING = "nothing"
    REFRESHED = "refreshed"
    CONTACT = "contact"
    JOINED = "joined"
    CHANGED = "changed"
    LEFT = "left"


@dataclass(slots=True)
class MemberEntry:
    """All that is known of one member; owned by the view."""

    peer: PeerId
    record: Signed
    announcement: Announcement
    roles: frozenset[Role]
    detector: Detector
    joined_s: float
    admitted_s: float
    word: bytes
    shown_word: bytes = b""
    shown_beat: tuple[bytes, int] | None = None
    rtt_s: float | None = None
    skew_s: float | None = None
    skew_seen_s: float = 0.0


@dataclass(slots=True)
class _Tombstone:
    order: tuple[int, int]
    gone_s: float
    heard_only: bool
    addresses: tuple[str, ...]


@dataclass(slots=True)
class _Contact:
    order: tuple[int, int]
    addresses: tuple[str, ...]
    asked_s: float | None = None
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """The outcome of `MembershipView.learn`.

    Attributes:
        news: What it brought.
        announcement: As read.
        weighty: Whether a new plan may pay: memory, speed, or able to hold layers changed.
    """

    news: News
    announcement: Announcement
    weighty: bool = False


class MembershipView:
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
            never believes a record alone: in an open swarm, identities cost nothing.
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
    ) -> None:
        self._me = me
        self._swarm = swarm
        self._manifest_hash = manifest_hash
        self._admit = admit
        self._timing = timing
        self._most_members = most_members
        self._many = many
        self._words: dict[bytes, PeerId] = {}
        self._unix_s: float | None = None
        self._members: dict[PeerId, MemberEntry] = {}
        self._contacts: dict[PeerId, _Contact] = {}
        self._gone: dict[PeerId, _Tombstone] = {}
        self._ring: list[PeerId] = []
        self._serving: dict[PeerId, LayerRange] = {}
        self.serving_version = 0
        """Rises whenever `serving` gives something else."""
        self._uneasy: dict[PeerId, None] = {}
        self._monitored: frozenset[PeerId] = frozenset()
        self._next_check = 0
        self._offset_s: float | None = None
        self._offset_until_s = 0.0
        self._now_s = 0.0
        self._expire_s = 0.0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, peer: object) -> bool:
        return peer in self._members

    def __iter__(self) -> Iterator[MemberEntry]:
        return iter(self._members.values())

    @property
    def ring(self) -> Sequence[PeerId]:
        """All members, ascending by id."""
        return self._ring

    def get(self, peer: PeerId) -> MemberEntry | None:
        """What is known of a member."""
        return self._members.get(peer)

    def peer_of(self, word: bytes) -> PeerId | None:
        """Whose word this is; None when it is not known (any more)."""
        return self._words.get(word)

    def contacts_to_ping(self, now_s: float, most: int) -> list[PeerId]:
        """Peers of whom only a record is known; a ping shows whether they live.

        Each is pinged once a period, and given up after a few silent ones.
        """
        due: list[PeerId] = []
        for peer, contact in list(self._contacts.items()):
            if contact.asked_s is not None and now_s - contact.asked_s < self._timing.ping_s:
                continue
            if contact.tries == CONTACT_TRIES:
                del self._contacts[peer]
            elif len(due) < most:
                contact.asked_s, contact.tries = now_s, contact.tries + 1
                due.append(peer)
        return due

    def lost_to_ping(self, most: int) -> list[PeerId]:
        """Members that fell silent, in turn: when a partition heals, someone has to call first."""
        lost = [peer for peer, stone in self._gone.items() if stone.heard_only][:most]
        for peer in lost:
            self._gone[peer] = self._gone.pop(peer)
        return lost

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        """Where a member, a contact or a lost member said it is reached."""
        entry = self._members.get(peer)
        if entry is not None:
            return entry.announcement.addresses
        other = self._contacts.get(peer) or self._gone.get(peer)
        return other.addresses if other is not None else ()

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
        said = open_announcement(record, self._swarm)
        self._check_fits(said)
        known = entry.announcement.order if entry else None
        tombstone = self._gone.get(peer)
        if tombstone is not None:
            known = max(known or tombstone.order, tombstone.order)
        if known is not None and said.order <= known:
            return Learned(News.NOTHING, said)
        if said.state is PeerState.LEFT:
            return self._leave(peer, said, now)
        if entry is not None:
            return self._update(entry, record, said, now, direct=direct)
        return self._join(peer, record, said, now, direct=direct)

    def _check_fits(self, said: Announcement) -> None:
        if said.protocol_version != PROTOCOL_VERSION:
            raise RecordRejected(f"it speaks protocol version {said.protocol_version}")
        other = self._manifest_hash and said.manifest_hash not in ("", self._manifest_hash)
        if other:
            raise RecordRejected("it serves another model")

    def _leave(self, peer: PeerId, said: Announcement, now: Now) -> Learned:
        was_member = peer in self._members
        self._bury(peer, said, now.s, heard_only=False)
        return Learned(News.LEFT if was_member else News.NOTHING, said)

    def _update(
        self, entry: MemberEntry, record: Signed, said: Announcement, now: Now, *, direct: bool
    ) -> Learned:
        old = entry.announcement
        if said.credentials != old.credentials or now.s - entry.admitted_s > READMIT_S:
            entry.roles = self._admit(said.credentials, entry.peer, now.unix_s)
            entry.admitted_s = now.s
        self._words.pop(entry.word, None)
        entry.word = word_of(record, self._swarm)
        self._words[entry.word] = entry.peer
        entry.record, entry.announcement = record, said
        if not direct:
            age_s = max(0.0, now.unix_s + (entry.skew_s or 0.0) - said.issued_unix_s)
            entry.detector.rose(now.s - age_s)
        if said.incarnation != old.incarnation:
            entry.joined_s = now.s
        self._note(entry)
        weighty = weighty_change(old, said)
        changed = weighty or (said.state, said.serving) != (old.state, old.serving)
        return Learned(News.CHANGED if changed else News.REFRESHED, said, weighty)

    def _join(
        self, peer: PeerId, record: Signed, said: Announcement, now: Now, *, direct: bool
    ) -> Learned:
        roles = self._admit(said.credentials, peer, now.unix_s)
        if Role.PEER not in roles:
            raise RecordRejected("its owner is not admitted as a peer")
        seen = self._contacts.get(peer)
        tombstone = self._gone.get(peer)
        heard_only = tombstone is not None and tombstone.heard_only
        rises = seen is not None and said.order > seen.order
        age_s = now.unix_s - said.issued_unix_s
        young = self._many is not None and len(self) >= self._many and abs(age_s) < YOUNG_S
        if not direct and (heard_only or not (rises or young)):
            if seen is not None and not rises:
                return Learned(News.NOTHING, said)
            if len(self._contacts) < self._most_members:
                self._contacts[peer] = _Contact(said.order, said.addresses)
            return Learned(News.CONTACT, said)
        if len(self._members) >= self._most_members:
            raise RecordRejected(f"more than {self._most_members} members are not kept")
        self._contacts.pop(peer, None)
        self._gone.pop(peer, None)
        detector = Detector(self._timing, now.s)
        if peer not in self._members:
            insort(self._ring, peer)
        word = word_of(record, self._swarm)
        self._words[word] = peer
        entry = MemberEntry(peer, record, said, roles, detector, now.s, now.s, word)
        self._members[peer] = entry
        self._note(entry)
        return Learned(News.JOINED, said, weighty=True)

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
        self._now_s = now.s
        suspected = entry.detector.condition is not Condition.ALIVE
        entry.detector.heard(now.s)
        if suspected:
            self._note(entry)
        if unix_s > 0:
            entry.skew_s, entry.skew_seen_s = unix_s - now.unix_s, now.s
        if rtt_s is not None:
            smooth = 1.0 if entry.rtt_s is None else 0.25
            entry.rtt_s = (entry.rtt_s or 0.0) * (1 - smooth) + rtt_s * smooth

    def is_gone(self, peer: PeerId) -> bool:
        """Whether a member is known to have left or died."""
        return peer in self._gone

    def drop_contact(self, peer: PeerId) -> None:
        """A contact could not be reached."""
        self._contacts.pop(peer, None)

    # ── losing ──────────────────────────────────────────────────────────────────────────────────

    def check(self, now: Now, monitored: Collection[PeerId]) -> list[tuple[PeerId, Verdict]]:
        """Run every member's failure detector.

        Returns:
            Whom to probe, report or drop (`forget` them); those without need are left out.
        """
        self._now_s, self._unix_s = now.s, now.unix_s
        uneasy = [p for p in self._uneasy if p in self._members]
        alive = len(self) - sum(
            self._members[p].detector.condition is not Condition.ALIVE for p in uneasy
        )
        stretch = max(1.0, len(self) / STALE_STRETCH_MEMBERS)
        now_monitored = frozenset(monitored)
        dropped = self._monitored - now_monitored
        self._monitored = now_monitored
        verdicts: list[tuple[PeerId, Verdict]] = []
        for peer in sorted({*uneasy, *now_monitored, *dropped, *self._in_turn()}):
            entry = self._members.get(peer)
            if entry is None:
                continue
            detector = entry.detector
            others = alive - (detector.condition is Condition.ALIVE)
            verdict = detector.check(
                now.s, monitored=peer in now_monitored, witnesses=others, stretch=stretch
            )
            if verdict is Verdict.NOTHING and peer not in self._uneasy:
                continue
            self._note(entry)
            if verdict is not Verdict.NOTHING:
                verdicts.append((peer, verdict))
        return verdicts

    def _in_turn(self) -> list[PeerId]:
        if len(self._ring) <= CHECKED_AT_ONCE:
            return self._ring
        count = max(2, len(self._ring) // CHECKS_PER_ROUND)
        start, self._next_check = self._next_check, self._next_check + count
        if self._next_check >= len(self._ring):
            self._next_check = 0
        return self._ring[start : start + count]

    def link_lost(self, peer: PeerId, now_s: float) -> bool:
        """A stream to a member broke; whether it is a member."""
        entry = self._members.get(peer)
        if entry is None:
            return False
        entry.detector.link_lost(now_s)
        self._note(entry)
        return True

    def unreachable(self, peer: PeerId, now_s: float) -> bool:
        """A message could not be delivered; whether it was to a member."""
        entry = self._members.get(peer)
        if entry is None:
            return False
        entry.detector.unreachable(now_s)
        self._note(entry)
        return True

    def reported(self, peer: PeerId, witness: PeerId, now_s: float) -> bool:
        """One member says that another is gone; whether both are members."""
        entry = self._members.get(peer)
        if entry is None or witness not in self._members or witness == peer:
            return False
        entry.detector.reported(witness, now_s)
        self._note(entry)
        return True

    def _note(self, entry: MemberEntry) -> None:
        """Keep `serving` and who needs attention in step with one member."""
        peer, alive = entry.peer, entry.detector.condition is Condition.ALIVE
        if alive and not entry.detector.doubted:
            self._uneasy.pop(peer, None)
        else:
            self._uneasy[peer] = None
        routable = entry.announcement.routable if alive else None
        if routable is None:
            if self._serving.pop(peer, None) is not None:
                self.serving_version += 1
        elif self._serving.get(peer) != routable:
            self._serving[peer] = routable
            self.serving_version += 1

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
        entry = self._members.pop(peer, None)
        if entry is not None:
            self._words.pop(entry.word, None)
            del self._ring[bisect_left(self._ring, peer)]
            self._uneasy.pop(peer, None)
            if self._serving.pop(peer, None) is not None:
                self.serving_version += 1
        self._contacts.pop(peer, None)
        self._gone[peer] = _Tombstone(said.order, now_s, heard_only, said.addresses)

    def forgive(self, slept_s: float) -> None:
        """This peer itself stood still for so long."""
        for entry in self:
            entry.detector.forgive(slept_s)

    def expire(self, now: Now) -> None:
        """Forget those who are gone for long; their records can no longer be anywhere."""
        if now.s < self._expire_s:
            return
        self._expire_s = now.s + EXPIRE_EVERY_S
        limit_s = LOST_KEPT_S
        for peer in [p for p, stone in self._gone.items() if now.s - stone.gone_s > limit_s]:
            del self._gone[peer]

    # ── asking ──────────────────────────────────────────────────────────────────────────────────

    def serving(self) -> dict[PeerId, LayerRange]:
        """Which layers are loaded where, at members that are not under suspicion."""
        return dict(self._serving)

    def candidates(self) -> list[PeerId]:
        """Members that may plan: willing, admitted as planners, well and with a right clock."""
        offset_s = self.clock_offset_s() or 0.0
        return [
            entry.peer
            for entry in self
            if entry.announcement.may_plan
            and Role.PLANNER in entry.roles
            and entry.announcement.state in PLANNABLE
            and entry.detector.condition is Condition.ALIVE
            and (entry.skew_s is None or abs(entry.skew_s - offset_s) <= self._timing.skew_s)
        ]

    def clock_offset_s(self) -> float | None:
        """Median of the others' clocks minus ours; None with fewer than two to compare with."""
        if self._now_s >= self._offset_until_s or self._offset_s is None:
            seen = [entry.skew_s for entry in self if entry.skew_s is not None]
            self._offset_s = median(seen) if len(seen) >= 2 else None
            kept_s = OFFSET_KEPT_S * max(1.0, len(self) / STALE_STRETCH_MEMBERS)
            self._offset_until_s = self._now_s + kept_s
        return self._offset_s

    def plannable(self) -> list[MemberEntry]:
        """Members that may be given layers."""
        return [
            entry
            for entry in self
            if entry.announcement.speed is not None
            and entry.announcement.state in PLANNABLE
            and entry.detector.present
            and entry.announcement.manifest_hash == self._manifest_hash
            and self._usable_age(entry.announcement)
        ]

    def _usable_age(self, said: Announcement) -> bool:
        """Or one peer with a wrong clock, or with bad intent, would make every plan invalid."""
        if self._unix_s is None:
            return True
        return -USED_AHEAD_S <= self._unix_s - said.issued_unix_s <= USED_UP_TO_S


def weighty_change(old: Announcement, new: Announcement) -> bool:
    """Whether a new plan may pay: what a peer can hold or how fast it is changed by much."""
    if (old.state in PLANNABLE) != (new.state in PLANNABLE) or (old.speed is None) != (
        new.speed is None
    ):
        return True
    pairs: list[tuple[float | None, float | None]] = [
        (old.memory_bytes, new.memory_bytes),
        (old.uplink_bytes_per_s, new.uplink_bytes_per_s),
        (old.downlink_bytes_per_s, new.downlink_bytes_per_s),
    ]
    if old.speed is not None and new.speed is not None:
        pairs.append((old.speed.decode_s(1), new.speed.decode_s(1)))
        most = max(old.speed.decode[-1][0], new.speed.decode[-1][0])
        pairs.append((old.speed.decode_s(most), new.speed.decode_s(most)))
    return any(_differ(before, after) for before, after in pairs)


def _differ(before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(after - before) > WEIGHTY_CHANGE * max(abs(before), abs(after))
