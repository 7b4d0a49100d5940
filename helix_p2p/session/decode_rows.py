"""The rows of a decode batch as columns: what a frame brings goes through a stage as it came.

A decode step of thirty sessions is thirty rows on every stage of a pipeline, and nearly always they
go in and out together. Kept as columns they are checked, merged and sent on a column at a time; a
row is made an object of its own only when somebody looks at it alone.

Always: one position in each row, and no session twice, except where batches were just merged; the
columns are as long as each other, and never change.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar, overload

from helix_p2p.session.effects import StepRow
from helix_p2p.session.messages import Open
from helix_p2p.session.stage_session import StageSession, Way
from helix_p2p.types import SessionId

P = TypeVar("P")


class DecodeRows(Sequence[StepRow[P]], Generic[P]):
    """A batch.

    Args:
        members: The sessions.
        sessions: By row.
        attempts: By row.
        positions: By row.
        wanted: Whether a token is wanted, by row.
        payloads: By row.
        ways: Of the rows.
    """

    __slots__ = ("attempts", "members", "payloads", "positions", "sessions", "wanted", "ways")

    def __init__(
        self,
        members: Sequence[StageSession],
        sessions: tuple[SessionId, ...],
        attempts: tuple[int, ...],
        positions: tuple[int, ...],
        wanted: tuple[bool, ...],
        payloads: Sequence[P],
        ways: Collection[Way],
    ) -> None:
        self.members = members
        self.sessions = sessions
        self.attempts = attempts
        self.positions = positions
        self.wanted = wanted
        self.payloads = payloads
        self.ways = ways

    @property
    def opens(self) -> list[Open]:
        """What each session's entry peer asked for."""
        return [member.open for member in self.members]

    def __len__(self) -> int:
        return len(self.sessions)

    @overload
    def __getitem__(self, index: int) -> StepRow[P]: ...

    @overload
    def __getitem__(self, index: slice) -> "DecodeRows[P]": ...

    def __getitem__(self, index: int | slice) -> "StepRow[P] | DecodeRows[P]":
        if isinstance(index, slice):
            return self.pick(range(len(self))[index])
        return StepRow(
            self.members[index].open,
            self.positions[index],
            1,
            self.wanted[index],
            self.payloads[index],
        )

    def __iter__(self) -> Iterator[StepRow[P]]:
        counts = (1,) * len(self.sessions)
        return map(StepRow, self.opens, self.positions, counts, self.wanted, self.payloads)

    def pick(self, indices: Sequence[int]) -> "DecodeRows[P]":
        """Some of the rows."""
        members = [self.members[i] for i in indices]
        return DecodeRows(
            members,
            tuple([self.sessions[i] for i in indices]),
            tuple([self.attempts[i] for i in indices]),
            tuple([self.positions[i] for i in indices]),
            tuple([self.wanted[i] for i in indices]),
            [self.payloads[i] for i in indices],
            {member.way for member in members},
        )


def batches_of(members: Sequence[StageSession], rows: Sequence[StepRow[P]]) -> list[DecodeRows[P]]:
    """Rows as batches: one, unless a session is in them twice.

    Args:
        members: Whose, by row.
        rows: Of decode steps.
    """
    batch = DecodeRows(
        members,
        tuple([row.open.session for row in rows]),
        tuple([row.open.attempt for row in rows]),
        tuple([row.position for row in rows]),
        tuple([row.wanted for row in rows]),
        [row.payload for row in rows],
        {member.way for member in members},
    )
    if len(set(batch.sessions)) == len(rows):
        return [batch] if rows else []
    return [batch.pick((index,)) for index in range(len(rows))]


def merged(batches: Sequence[DecodeRows[P]]) -> DecodeRows[P]:
    """All rows in one batch, in order; a session that is in two of them is in it twice."""
    if len(batches) == 1:
        return batches[0]
    return DecodeRows(
        list(_joined([batch.members for batch in batches])),
        _joined([batch.sessions for batch in batches]),
        _joined([batch.attempts for batch in batches]),
        _joined([batch.positions for batch in batches]),
        _joined([batch.wanted for batch in batches]),
        _joined([batch.payloads for batch in batches]),
        {way for batch in batches for way in batch.ways},
    )


C = TypeVar("C")


def _joined(columns: Iterable[Iterable[C]]) -> tuple[C, ...]:
    return tuple(chain.from_iterable(columns))
