"""The beginning of what went through this stage lately, so that it can be checked afterwards.

Always: at most `LIMIT_BYTES` of host memory, and nothing of a session that had no row for
`KEPT_S`, since an entry peer checks within seconds of an answer's end; who was silent longest is
forgotten first; only the session's own entry peer is shown what is kept; rows are copied, so that a
frame's memory is not held for them.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import torch

from helix_p2p.engine.contract import StepResult
from helix_p2p.node.steps import RowPayload
from helix_p2p.session.effects import RunStep, StepRow
from helix_p2p.types import PeerId, SessionId

LIMIT_BYTES = 128 * 1024 * 1024
POSITIONS = 256
"""Of each session; what is checked is shorter."""
KEPT_S = 60.0
"""Also how long a stage waits for a silent session before it ends it."""
LEAST_POSITIONS = 16
"""Room of a copy at first; it doubles, so that a decode row costs no tensor of its own."""


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows as they ran, from position 0.

    Attributes:
        counts: Positions of each row.
        wanted: Whether a token was wanted after the row.
        hidden: `[sum(counts), d_model]`.
    """

    counts: tuple[int, ...]
    wanted: tuple[bool, ...]
    hidden: torch.Tensor

    def first(self, positions: int) -> "KeptRows | None":
        """Its first positions; None when it is shorter."""
        if sum(self.counts) < positions:
            return None
        counts: list[int] = []
        for count in self.counts:
            left = positions - sum(counts)
            if left <= 0:
                break
            counts.append(min(count, left))
        wanted = [w and c == whole for w, c, whole in zip(self.wanted, counts, self.counts)]  # noqa: B905
        return KeptRows(tuple(counts), tuple(wanted), self.hidden[:positions])


@dataclass(slots=True)
class _Track:
    entry: PeerId
    heard_s: float = 0.0
    counts: list[int] = field(default_factory=list)
    wanted: list[bool] = field(default_factory=list)
    inputs: torch.Tensor | None = None
    outputs: torch.Tensor | None = None
    filled: int = 0

    @property
    def size_bytes(self) -> int:
        """Of what is kept."""
        return sum(kept.nbytes for kept in (self.inputs, self.outputs) if kept is not None)


class Tape:
    """What is kept of each session, by its name and attempt."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._tracks: OrderedDict[tuple[SessionId, int], _Track] = OrderedDict()
        self.size_bytes = 0

    def keep(self, step: RunStep[RowPayload], result: StepResult, now_s: float) -> None:
        """A step is done."""
        start = 0
        for row in step.rows:
            output = None if result.hidden is None else result.hidden[start : start + row.count]
            start += row.count
            self._keep_row(row, output, now_s)
        while self.size_bytes > self._limit_bytes:
            self._forget_first()
        self.tick(now_s)

    def tick(self, now_s: float) -> None:
        """Forget sessions that nobody will ask about any more."""
        while self._tracks and next(iter(self._tracks.values())).heard_s + KEPT_S <= now_s:
            self._forget_first()

    def read(
        self, session: SessionId, attempt: int, entry: PeerId, *, output: bool
    ) -> KeptRows | None:
        """What went into or out of a session's beginning here; None when nothing is kept of it.

        Args:
            session: As stages call it.
            attempt: Of its pipeline.
            entry: Who asks; must be the session's entry peer.
            output: What came out, not what went in.
        """
        track = self._tracks.get((session, attempt))
        if track is None or track.entry != entry:
            return None
        kept = track.outputs if output else track.inputs
        if kept is None:
            return None
        return KeptRows(tuple(track.counts), tuple(track.wanted), kept[: track.filled].clone())

    def _keep_row(
        self, row: StepRow[RowPayload], output: torch.Tensor | None, now_s: float
    ) -> None:
        name = (row.session, row.attempt)
        track = self._tracks.get(name)
        if track is None:
            if row.position != 0:  # it began with what another session had left here
                return
            track = self._tracks[name] = _Track(row.open.entry)
        else:
            self._tracks.move_to_end(name)
        track.heard_s = now_s
        if row.position != track.filled or track.filled >= POSITIONS:
            return
        count = min(row.count, POSITIONS - track.filled)
        before_bytes = track.size_bytes
        if isinstance(row.payload, torch.Tensor):
            taken = row.payload[row.skip : row.skip + count]
            track.inputs = _with(track.inputs, track.filled, taken)
        if output is not None:
            track.outputs = _with(track.outputs, track.filled, output[:count])
        track.filled += count
        track.counts.append(count)
        track.wanted.append(row.wanted and count == row.count)
        self.size_bytes += track.size_bytes - before_bytes

    def _forget_first(self) -> None:
        _, oldest = self._tracks.popitem(last=False)
        self.size_bytes -= oldest.size_bytes


def _with(kept: torch.Tensor | None, filled: int, rows: torch.Tensor) -> torch.Tensor:
    """A copy's first `filled` rows, then these; in the same memory while there is room."""
    needed = filled + len(rows)
    if kept is None or len(kept) < needed:
        room = LEAST_POSITIONS
        while room < needed:
            room *= 2
        grown = torch.empty((room, rows.shape[1]), dtype=rows.dtype)
        if kept is not None:
            grown[:filled] = kept[:filled]
        kept = grown
    kept[filled:needed] = rows
    return kept
