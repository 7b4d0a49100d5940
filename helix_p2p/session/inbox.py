"""The rows that wait at a stage, and which of them run together next.

Merging is everything on a CPU, where a product of eight rows costs as much as one of two
(docs/adr/0007): all decode rows that wait and share layers form one batch, from whichever entry
peer. Prefill is served round robin by session, packed up to the chunk size; what is larger is cut,
since a decode step may come at any moment and waits for it. Small chunks are filled up with a part
of the next prompt, whose rest goes first in the next one. Decode and prefill take turns when both
wait, so neither starves.

Always: one row per session and batch, in the order they came; rows of a batch share layers; prefill
whose next stage does not keep up stays here; the count of waiting positions is exact.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar

from msgspec.structs import replace

from helix_p2p.session.decode_rows import DecodeRows, merged
from helix_p2p.session.effects import StepRow
from helix_p2p.session.messages import Phase
from helix_p2p.types import PeerId, SessionId

P = TypeVar("P")

SMALLEST_PART = 16
"""Positions; a part of a prompt that is smaller costs more in rows and frames than it fills up."""


class _Turn(Enum):
    DECODE = auto()
    PREFILL = auto()


@dataclass(slots=True)
class Inbox(Generic[P]):
    """Waiting rows of all sessions.

    Attributes:
        decode_batch: Most decode rows in a batch.
        prefill_tokens: Most prefill positions in a batch, as the stage's pace has it now.
        fills: Whether the last prompt of a batch is cut where it does not fit; otherwise it waits.
        congested: Peers that take no more prefill for now.
        positions: All positions that wait.
    """

    decode_batch: int
    prefill_tokens: int
    fills: bool = False
    congested: set[PeerId] = field(default_factory=set)
    positions: int = 0
    _decode: deque[DecodeRows[P]] = field(default_factory=deque)
    _decode_rows: int = 0
    _prefill: OrderedDict[SessionId, deque[StepRow[P]]] = field(default_factory=OrderedDict)
    _turn: _Turn = _Turn.DECODE

    @property
    def rows(self) -> int:
        """All rows that wait."""
        return self._decode_rows + sum(len(chunks) for chunks in self._prefill.values())

    @property
    def prefill_waits(self) -> bool:
        """Whether any session's prefill waits."""
        return bool(self._prefill)

    def prefills(self, session: SessionId) -> bool:
        """Whether a session's prefill waits here."""
        return session in self._prefill

    def first_position(self, session: SessionId) -> int | None:
        """Where a session's waiting rows begin; None when none waits."""
        decode = (row for batch in self._decode if session in batch.sessions for row in batch)
        rows = (*self._prefill.get(session, ()), *decode)
        return min((row.position for row in rows if row.open.session == session), default=None)

    def put_prefill(self, rows: Sequence[StepRow[P]]) -> None:
        """Add the rows of a frame of prompts."""
        for row in rows:
            self.positions += row.count
            self._prefill.setdefault(row.open.session, deque()).append(row)

    def put_decode(self, batch: DecodeRows[P]) -> None:
        """Add rows of a decode frame, one per session."""
        self.positions += len(batch)
        self._decode_rows += len(batch)
        self._decode.append(batch)

    def forget(self, session: SessionId) -> None:
        """A session is over."""
        if (chunks := self._prefill.pop(session, None)) is not None:
            self.positions -= sum(row.count for row in chunks)
        if not any(session in batch.sessions for batch in self._decode):
            return
        batches, self._decode = self._decode, deque()
        for batch in batches:
            others = [i for i, name in enumerate(batch.sessions) if name != session]
            gone = len(batch) - len(others)
            self.positions -= gone
            self._decode_rows -= gone
            if others:
                self._decode.append(batch.pick(others) if gone else batch)

    def take(self) -> tuple[Phase, Sequence[StepRow[P]]] | None:
        """The next batch, None when nothing can run."""
        decode_first = self._turn is _Turn.DECODE
        rows: Sequence[StepRow[P]]
        rows = self._take_decode() if decode_first else self._take_prefill()
        if rows:
            phase = Phase.DECODE if decode_first else Phase.PREFILL
        else:
            rows = self._take_prefill() if decode_first else self._take_decode()
            if not rows:
                return None
            phase = Phase.PREFILL if decode_first else Phase.DECODE
        if phase is Phase.DECODE:
            self._turn = _Turn.PREFILL
            self.positions -= len(rows)
        else:
            self._turn = _Turn.DECODE
            self.positions -= sum(row.count for row in rows)
        return phase, rows

    def _take_decode(self) -> Sequence[StepRow[P]]:
        """All waiting decode rows that share the first one's layers, one per session."""
        if not self._decode:
            return ()
        batches = list(self._decode)
        self._decode.clear()
        waiting = merged(batches)
        spans = {way.span for way in waiting.ways}
        if len(spans) > 1 or (len(batches) > 1 and len({*waiting.sessions}) < len(waiting)):
            taken = self._sort_out(waiting)
        elif len(waiting) > self.decode_batch:
            taken = waiting[: self.decode_batch]
            self._decode.append(waiting[self.decode_batch :])
        else:  # nearly always they all go together
            taken = waiting
        self._decode_rows -= len(taken)
        return taken

    def _sort_out(self, waiting: DecodeRows[P]) -> DecodeRows[P]:
        """Those that run together; what is left waits on."""
        span = waiting.members[0].way.span
        taken: dict[SessionId, int] = {}
        left: list[int] = []
        for index, (name, member) in enumerate(zip(waiting.sessions, waiting.members, strict=True)):
            fits = len(taken) < self.decode_batch and member.way.span == span
            if fits and name not in taken:
                taken[name] = index
            else:
                left.append(index)
        if len({waiting.sessions[index] for index in left}) == len(left):
            self._decode.extend([waiting.pick(left)] if left else ())
        else:
            self._decode.extend([waiting.pick((index,)) for index in left])
        return waiting.pick(tuple(taken.values()))

    def _take_prefill(self) -> list[StepRow[P]]:
        """Chunks of different sessions that share layers, up to the chunk size together."""
        taken: list[StepRow[P]] = []
        room = self.prefill_tokens
        for chunks in self._prefill.values():
            row = chunks[0]
            if row.open.next in self.congested:
                continue
            if taken and row.open.layers != taken[0].open.layers:
                continue
            if taken and row.count > room and not (self.fills and room >= SMALLEST_PART):
                continue
            taken.append(row)
            room -= row.count
            if room <= 0:
                break
        for row in taken:
            chunks = self._prefill.pop(row.open.session)
            chunks.popleft()
            if chunks:  # its next chunk waits behind the other sessions'
                self._prefill[row.open.session] = chunks
        if room < 0:
            taken[-1], rest = _cut(taken[-1], taken[-1].count + room)
            session = rest.open.session
            self._prefill.setdefault(session, deque()).appendleft(rest)
            if rest.count <= self.prefill_tokens:  # what the next chunk can finish goes first
                self._prefill.move_to_end(session, last=False)
        return taken


def _cut(row: StepRow[P], count: int) -> tuple[StepRow[P], StepRow[P]]:
    """A row's first `count` positions, and the others; a token is wanted only after the last."""
    rest = replace(
        row, position=row.position + count, count=row.count - count, skip=row.skip + count
    )
    return replace(row, count=count, wanted=False), rest
