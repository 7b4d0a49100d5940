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
    _decode: deque[StepRow[P]] = field(default_factory=deque)
    _prefill: OrderedDict[SessionId, deque[StepRow[P]]] = field(default_factory=OrderedDict)
    _turn: _Turn = _Turn.DECODE

    @property
    def rows(self) -> int:
        """All rows that wait."""
        return len(self._decode) + sum(len(chunks) for chunks in self._prefill.values())

    @property
    def prefill_waits(self) -> bool:
        """Whether any session's prefill waits."""
        return bool(self._prefill)

    def prefills(self, session: SessionId) -> bool:
        """Whether a session's prefill waits here."""
        return session in self._prefill

    def first_position(self, session: SessionId) -> int | None:
        """Where a session's waiting rows begin; None when none waits."""
        rows = (*self._prefill.get(session, ()), *self._decode)
        return min((row.position for row in rows if row.open.session == session), default=None)

    def put(self, phase: Phase, rows: Sequence[StepRow[P]]) -> None:
        """Add the rows of a frame."""
        if phase is Phase.DECODE:
            self.positions += len(rows)
            self._decode.extend(rows)
            return
        for row in rows:
            self.positions += row.count
            self._prefill.setdefault(row.open.session, deque()).append(row)

    def forget(self, session: SessionId) -> None:
        """A session is over."""
        gone = [*self._prefill.pop(session, ())]
        mine = [row for row in self._decode if row.open.session == session]
        if mine:
            gone += mine
            self._decode = deque(row for row in self._decode if row.open.session != session)
        self.positions -= sum(row.count for row in gone)

    def take(self) -> tuple[Phase, list[StepRow[P]]] | None:
        """The next batch, None when nothing can run."""
        decode_first = self._turn is _Turn.DECODE
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

    def _take_decode(self) -> list[StepRow[P]]:
        """All waiting decode rows that share the first one's layers, one per session."""
        if not self._decode:
            return []
        layers = self._decode[0].open.layers
        start, end = layers.start, layers.end
        if len(self._decode) <= self.decode_batch:  # nearly always they all go together
            waiting = list(self._decode)
            opens = [row.open for row in waiting]
            names = {open_.session for open_ in opens}
            alike = [(o.layers.start, o.layers.end) for o in opens].count((start, end))
            if alike == len(names) == len(waiting):
                self._decode.clear()
                return waiting
        taken: dict[SessionId, StepRow[P]] = {}
        left: list[StepRow[P]] = []
        room = self.decode_batch
        for row in self._decode:
            open_ = row.open
            layers = open_.layers
            if room and layers.start == start and layers.end == end and open_.session not in taken:
                taken[open_.session] = row
                room -= 1
            else:
                left.append(row)
        self._decode.clear()
        self._decode.extend(left)
        return list(taken.values())

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
