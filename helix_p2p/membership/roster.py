"""The members of a swarm as one peer knows them, and what is asked of them.

Whoever plans, routes, gossips or audits reads here; `view` alone writes, since it judges what comes
in. `liveness` keeps who of them is well.

Always: the ring, the words, the contents and who serves follow the members; nobody is here twice.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from statistics import median

from helix_p2p.identity import Signed
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.detector import Condition
from helix_p2p.membership.entry import MemberEntry
from helix_p2p.membership.liveness import Liveness, stretch_of
from helix_p2p.membership.plannable import PLANNABLE, of_usable_age
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.planning.plan import Reference
from helix_p2p.types import LayerRange, PeerId

OFFSET_KEPT_S = 1.0
OFFSET_STRETCH_MEMBERS = 16


class Roster:
    """See the module's description.

    Args:
        manifest_hash: Our model.
        timing: How far a clock may be off.
    """

    def __init__(self, manifest_hash: str, timing: MembershipTiming) -> None:
        self._manifest_hash = manifest_hash
        self._timing = timing
        self._members: dict[PeerId, MemberEntry] = {}
        self._words: dict[bytes, PeerId] = {}
        self._contents: dict[bytes, Signed] = {}
        self._ring: list[PeerId] = []
        self._ring_words: list[bytes] = []
        self._ring_version = 0
        self._liveness = Liveness()
        self._now_s = 0.0
        self._unix_s: float | None = None
        self._offset_s: float | None = None
        self._offset_until_s = 0.0

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

    @property
    def ring_version(self) -> int:
        """Rises whenever `ring` changes."""
        return self._ring_version

    @property
    def calm(self) -> bool:
        """Whether every member is well as far as is known."""
        return self._liveness.calm

    def get(self, peer: PeerId) -> MemberEntry | None:
        """What is known of a member."""
        return self._members.get(peer)

    def peer_of(self, word: bytes) -> PeerId | None:
        """Whose word this is; None when it is not known (any more)."""
        return self._words.get(word)

    def words_in_turn(self, start: int, end: int | None, to: PeerId) -> list[bytes]:
        """The words of a stretch of `ring`, for one of the members to hear; its own it knows."""
        told = self._ring_words[start:end]
        entry = self._members.get(to)
        if entry is not None and entry.word in told:
            told.remove(entry.word)
        return told

    def records_of(self, references: Iterable[Reference]) -> dict[bytes, Signed]:
        """By content, the records of those members who say just that.

        A content is a hash over its owner's key as well, so it is nobody else's.
        """
        said = self._contents
        found: dict[bytes, Signed] = {}
        for reference in references:
            content = reference.content
            record = said.get(content)
            if record is not None:
                found[content] = record
        return found

    def unknown(self, words: Iterable[bytes]) -> list[bytes]:
        """Those of the words that are no member's."""
        known = self._words
        return [word for word in words if word not in known]

    def serving(self) -> dict[PeerId, LayerRange]:
        """Which layers are loaded where, at members that are not under suspicion."""
        return dict(self._liveness.serving)

    def serving_of(self, peer: PeerId) -> LayerRange | None:
        """What `serving` says of one member."""
        return self._liveness.serving.get(peer)

    @property
    def serving_version(self) -> int:
        """Rises whenever `serving` gives something else."""
        return self._liveness.version

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
            self._offset_until_s = self._now_s + OFFSET_KEPT_S * stretch_of(
                len(self), OFFSET_STRETCH_MEMBERS
            )
        return self._offset_s

    def plannable(self, but: Collection[PeerId] = frozenset()) -> list[MemberEntry]:
        """Members that may be given layers, `but` for these."""
        members = self._members
        asked = [members[peer] for peer in self._ring if peer not in but] if but else self
        return [
            entry
            for entry in asked
            if entry.announcement.speed is not None
            and entry.announcement.state in PLANNABLE
            and entry.detector.present
            and entry.announcement.manifest_hash == self._manifest_hash
            and (self._unix_s is None or of_usable_age(entry.announcement, self._unix_s))
        ]

    # ── who is here ─────────────────────────────────────────────────────────────────────────────

    def _enter(self, entry: MemberEntry) -> None:
        """A member more."""
        place = bisect_left(self._ring, entry.peer)
        self._ring.insert(place, entry.peer)
        self._ring_words.insert(place, entry.word)
        self._ring_version += 1
        self._words[entry.word] = entry.peer
        self._contents[entry.content] = entry.record
        self._members[entry.peer] = entry
        self._liveness.note(entry)

    def _says(self, entry: MemberEntry, word: bytes) -> None:
        """A member says something new."""
        self._words.pop(entry.word, None)
        entry.word = word
        self._words[word] = entry.peer
        self._ring_words[bisect_left(self._ring, entry.peer)] = word

    def _signs(self, entry: MemberEntry, record: Signed, content: bytes) -> None:
        """A member's latest record, which says this."""
        if content != entry.content:
            self._contents.pop(entry.content, None)
            entry.content = content
        entry.record = self._contents[content] = record

    def _strike(self, peer: PeerId) -> bool:
        """A member less, if it was one."""
        entry = self._members.pop(peer, None)
        if entry is None:
            return False
        self._words.pop(entry.word, None)
        self._contents.pop(entry.content, None)
        entry.present = False
        place = bisect_left(self._ring, peer)
        del self._ring[place], self._ring_words[place]
        self._ring_version += 1
        self._liveness.drop(peer)
        return True
