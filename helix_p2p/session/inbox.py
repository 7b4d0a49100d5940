"""The rows that wait at a stage, and which of them run together next.

Merging is everything on a CPU, where a product of eight rows costs as much as one of two
(docs/adr/0007): all decode rows that wait and share layers form one batch, from whichever entry
peer. Prefill is served round robin by session, packed up to the chunk size. The two take turns when
both wait, so neither starves.

Always: one row per session and batch, in the order they came; rows of a batch share layers; prefill
whose next stage does not keep up stays here; the count of waiting positions is exact.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar

from helix_p2p.session.messages import Phase
from helix_p2p.types import LayerRange, PeerId, SessionId

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[P]):
    """One row.

    Attributes:
        layers: What its session runs here.
        next: Who gets the output; None on the last stage.
    """

    session: SessionId
    attempt: int
    position: int
    count: int
    sample: bool
    payload: P
    layers: LayerRange
    next: PeerId | None


class _Turn(Enum):
    DECODE = auto()
    PREFILL = auto()


@dataclass(slots=True)
class Inbox(Generic[P]):
    """Waiting rows of all sessions.

    Attributes:
        decode_batch: Most decode rows in a batch.
        prefill_tokens: Most prefill positions in a batch; a single larger row still runs alone.
        congested: Peers that take no more prefill for now.
        positions: All positions that wait.
    """

    decode_batch: int
    prefill_tokens: int
    congested: set[PeerId] = field(default_factory=set)
    positions: int = 0
    _decode: deque[Waiting[P]] = field(default_factory=deque)
    _prefill: dict[SessionId, deque[Waiting[P]]] = field(default_factory=dict)
    _turn: _Turn = _Turn.DECODE

    @property
    def rows(self) -> int:
        """All rows that wait."""
        return len(self._decode) + sum(len(chunks) for chunks in self._prefill.values())

    def prefills(self, session: SessionId) -> bool:
        """Whether a session's prefill waits here."""
        return session in self._prefill

    def put(self, phase: Phase, row: Waiting[P]) -> None:
        """Add a row."""
        self.positions += row.count
        if phase is Phase.DECODE:
            self._decode.append(row)
        else:
            self._prefill.setdefault(row.session, deque()).append(row)

    def forget(self, session: SessionId) -> None:
        """A session is over."""
        gone = [*self._prefill.pop(session, ())]
        if any(row.session == session for row in self._decode):
            gone += (row for row in self._decode if row.session == session)
            self._decode = deque(row for row in self._decode if row.session != session)
        self.positions -= sum(row.count for row in gone)

    def take(self) -> tuple[Phase, list[Waiting[P]]] | None:
        """The next batch, None when nothing can run."""
        turns = (self._turn, _Turn.PREFILL if self._turn is _Turn.DECODE else _Turn.DECODE)
        for turn in turns:
            rows = self._take_decode() if turn is _Turn.DECODE else self._take_prefill()
            if rows:
                self._turn = _Turn.PREFILL if turn is _Turn.DECODE else _Turn.DECODE
                self.positions -= sum(row.count for row in rows)
                return (Phase.DECODE if turn is _Turn.DECODE else Phase.PREFILL), rows
        return None

    def _take_decode(self) -> list[Waiting[P]]:
        """All waiting decode rows that share the first one's layers, one per session."""
        taken: dict[SessionId, Waiting[P]] = {}
        left: deque[Waiting[P]] = deque()
        for row in self._decode:
            layers = next(iter(taken.values())).layers if taken else row.layers
            fits = row.layers == layers and len(taken) < self.decode_batch
            if fits and row.session not in taken:
                taken[row.session] = row
            else:
                left.append(row)
        self._decode = left
        return list(taken.values())

    def _take_prefill(self) -> list[Waiting[P]]:
        """Chunks of different sessions that share layers, up to the chunk size together."""
        taken: list[Waiting[P]] = []
        room = self.prefill_tokens
        for session in list(self._prefill):
            chunks = self._prefill[session]
            row = chunks[0]
            if row.next in self.congested:
                continue
            if taken and (row.layers != taken[0].layers or row.count > room):
                continue
            taken.append(chunks.popleft())
            room -= row.count
            del self._prefill[session]
            if chunks:  # its next chunk waits behind the other sessions'
                self._prefill[session] = chunks
            if room <= 0:
                break
        return taken
