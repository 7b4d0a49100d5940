"""The sessions of a stage: how far each one's cache is filled, and which row may come next.

Always: `filled` never goes back within an attempt, and leaves no gap; whoever opened or ended a
session since a moment can be told by `changes`; a token history is kept only for the sessions whose
sampling needs one, and asking whether any does costs nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec.structs import replace

from helix_p2p.errors import ProtocolError
from helix_p2p.session.effects import StepRow
from helix_p2p.session.messages import Forward, Open, Phase
from helix_p2p.types import PeerId, SessionId

P = TypeVar("P")


@dataclass(slots=True, eq=False)
class StageSession:
    """One session on this stage.

    Attributes:
        open: What its entry peer asked for.
        heard_s: When its last row came; the ledger is told when it asks, not per row.
        takes_tokens: Whether the stage is its first one.
        needs_history: Whether its sampling looks at what came before.
        filled: Positions whose K and V are written or on their way through a step.
        reused: Positions that the cache began with; the first row may come anywhere in them.
        decoding: Whether its last row was a decode step.
        next_decode: Where a decode row simply goes on; None where a row wants a closer look.
        history: Prompt and answer so far, where needed.
    """

    open: Open
    heard_s: float
    takes_tokens: bool
    needs_history: bool
    filled: int = 0
    reused: int = 0
    decoding: bool = False
    next_decode: int | None = None
    history: list[int] = field(default_factory=list)

    def fill(self, filled: int, now_s: float) -> None:
        """A row was taken; the cache will be filled up to its end."""
        self.filled = filled
        self.heard_s = now_s
        goes_on = self.decoding and filled < self.open.kv_tokens
        self.next_decode = filled if goes_on else None

    def check_row(
        self, phase: Phase, takes_tokens: bool, position: int, count: int, *, prefill_waits: bool
    ) -> None:
        """Take a row that is not one more of what runs already, unless no honest peer sends it.

        Args:
            phase: Of the frame.
            takes_tokens: Whether the frame carries token ids.
            position: The row's first.
            count: Of the row's positions.
            prefill_waits: Whether earlier rows of the session's prefill are yet to run.

        Raises:
            ProtocolError: It leaves a gap, goes beyond what is reserved, or its kind is wrong.
        """
        if position > self.filled:
            raise ProtocolError(f"positions from {self.filled} on are missing")
        if position + count > self.open.kv_tokens:
            raise ProtocolError(f"{self.open.kv_tokens} positions are reserved, and no more")
        if takes_tokens != self.takes_tokens:
            raise ProtocolError("a first stage takes tokens, every other one activations")
        if phase is Phase.DECODE and prefill_waits:
            raise ProtocolError("a decode step came before its prefill was done")
        if phase is Phase.PREFILL and self.decoding:
            raise ProtocolError("prefill came after a decode step")
        self.decoding = phase is Phase.DECODE


class StageSessions:
    """All sessions that are open on a stage."""

    def __init__(self) -> None:
        self._all: dict[SessionId, StageSession] = {}
        self._historians = 0
        self.changes = 0
        """To who is open here, and under which attempt."""

    def __len__(self) -> int:
        return len(self._all)

    @property
    def all(self) -> Mapping[SessionId, StageSession]:
        """By name."""
        return self._all

    @property
    def decoding(self) -> int:
        """Sessions whose last row was a decode step; the others' first tokens are yet to come."""
        return sum([known.decoding for known in self._all.values()])

    def add(self, open_: Open, now_s: float, reused: int) -> None:
        """A session begins, or begins anew in place of its earlier attempt."""
        known = self._all.get(open_.session)
        needs_history = open_.last is not None and open_.last.sampling.repetition_penalty != 1.0
        fresh = StageSession(open_, now_s, open_.layers.start == 0, needs_history, reused=reused)
        if needs_history and open_.last is not None:
            fresh.history.extend(open_.last.history)
        self._all[open_.session] = fresh
        self._historians += needs_history - (known is not None and known.needs_history)
        self.changes += 1

    def remove(self, session: SessionId) -> None:
        """A session is over; twice counts once."""
        ended = self._all.pop(session, None)
        if ended is not None:
            self._historians -= ended.needs_history
            self.changes += 1

    def go_on(
        self, sender: PeerId, message: Forward, payloads: Sequence[P], now_s: float
    ) -> list[StepRow[P]] | None:
        """Take a decode frame all of whose sessions do one step more, as nearly every frame does.

        Column by column, which costs a third of row by row.

        Returns:
            Its rows; None, and nothing has changed, where one of them wants a closer look.
        """
        names, positions = message.sessions, message.positions
        found = [known for known in map(self._all.get, names) if known is not None]
        if (
            [known.next_decode for known in found] != list(positions)
            or len(set(names)) != len(names)
            or len(payloads) != len(names)
        ):
            return None
        opens = [known.open for known in found]
        if (
            [open_.attempt for open_ in opens] != list(message.attempts)
            or [open_.previous for open_ in opens].count(sender) != len(names)
            or [known.takes_tokens for known in found].count(bool(message.tokens)) != len(names)
        ):
            return None
        for known, position, open_ in zip(found, positions, opens, strict=True):
            known.filled = after = position + 1
            known.heard_s = now_s
            if after >= open_.kv_tokens:
                known.next_decode = None
            else:
                known.next_decode = after
        return list(map(StepRow, opens, positions, message.counts, message.sample, payloads))

    def is_current(self, open_: Open) -> bool:
        """Whether a session is still open in this attempt."""
        known = self._all.get(open_.session)
        return known is not None and known.open.attempt == open_.attempt

    def sampled(self, session: SessionId, token: int) -> None:
        """The last stage chose a token of an open session."""
        if self._historians and (known := self._all[session]).needs_history:
            known.history.append(token)

    def with_histories(self, rows: list[StepRow[P]]) -> list[StepRow[P]]:
        """The rows, with what came before where a row's sampling needs it."""
        return [self._with_history(row) for row in rows] if self._historians else rows

    def _with_history(self, row: StepRow[P]) -> StepRow[P]:
        known = self._all[row.open.session]
        if not (row.wanted and known.needs_history):
            return row
        return replace(row, history=tuple(known.history))
