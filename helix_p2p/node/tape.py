"""The beginning of what went through this stage lately, so that it can be checked afterwards.

Always: at most `LIMIT_BYTES` of host memory, the oldest session forgotten first; only the session's
own entry peer is shown what is kept; rows are copied, so that a frame's memory is not held for
them.
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
    counts: list[int] = field(default_factory=list)
    wanted: list[bool] = field(default_factory=list)
    inputs: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    filled: int = 0
    size_bytes: int = 0


class Tape:
    """What is kept of each session, by its name and attempt."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._tracks: OrderedDict[tuple[SessionId, int], _Track] = OrderedDict()
        self.size_bytes = 0

    def keep(self, step: RunStep[RowPayload], result: StepResult) -> None:
        """A step is done."""
        start = 0
        for row in step.rows:
            output = None if result.hidden is None else result.hidden[start : start + row.count]
            start += row.count
            self._keep_row(row, output)
        while self.size_bytes > self._limit_bytes:
            _, oldest = self._tracks.popitem(last=False)
            self.size_bytes -= oldest.size_bytes

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
        if not kept:
            return None
        return KeptRows(tuple(track.counts), tuple(track.wanted), torch.cat(kept))

    def _keep_row(self, row: StepRow[RowPayload], output: torch.Tensor | None) -> None:
        name = (row.session, row.attempt)
        track = self._tracks.get(name)
        if track is None:
            if row.position != 0:  # it began with what another session had left here
                return
            track = self._tracks[name] = _Track(row.open.entry)
        if row.position != track.filled or track.filled >= POSITIONS:
            return
        count = min(row.count, POSITIONS - track.filled)
        track.filled += count
        track.counts.append(count)
        track.wanted.append(row.wanted and count == row.count)
        for kept, rows in ((track.inputs, row.payload), (track.outputs, output)):
            if isinstance(rows, torch.Tensor):
                kept.append(rows[:count].detach().cpu().clone())
                added = kept[-1].nbytes
                track.size_bytes += added
                self.size_bytes += added
