"""The sessions that are open on a stage, and the decode frames that move all of theirs one step on.

Always: whoever opened or ended a session since a moment can be told by `changes`; a token history
is kept only for the sessions whose sampling needs one, and asking whether any does costs nothing;
how many decode is kept, never recounted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from helix_p2p.session.decode_rows import DecodeRows
from helix_p2p.session.effects import StepRow
from helix_p2p.session.messages import Forward, Open, Phase
from helix_p2p.session.stage_session import StageSession, Way
from helix_p2p.types import PeerId, SessionId

P = TypeVar("P")


@dataclass(slots=True)
class _Shared:
    """A way, and how many sessions are on it."""

    way: Way
    sessions: int = 0


class StageSessions:
    """All sessions that are open on a stage."""

    def __init__(self) -> None:
        self._all: dict[SessionId, StageSession] = {}
        self._ways: dict[tuple[PeerId, tuple[int, int], PeerId | None], _Shared] = {}
        self._historians = 0
        self.changes = 0
        """To who is open here, and under which attempt."""
        self.decoding = 0
        """Sessions whose last row was a decode step; the others' first tokens are yet to come."""

    def __len__(self) -> int:
        return len(self._all)

    @property
    def all(self) -> Mapping[SessionId, StageSession]:
        """By name."""
        return self._all

    def add(self, open_: Open, now_s: float, reused: int) -> None:
        """A session begins, or begins anew in place of its earlier attempt."""
        self._take_out(open_.session)
        needs_history = open_.last is not None and open_.last.sampling.repetition_penalty != 1.0
        fresh = StageSession(open_, self._share(open_), now_s, needs_history, reused=reused)
        if needs_history and open_.last is not None:
            fresh.history = open_.last.history
        self._all[open_.session] = fresh
        self._historians += needs_history
        self.changes += 1

    def remove(self, session: SessionId) -> None:
        """A session is over; twice counts once."""
        self.changes += self._take_out(session)

    def check_row(
        self,
        known: StageSession,
        phase: Phase,
        takes_tokens: bool,
        position: int,
        count: int,
        *,
        prefill_waits: bool,
    ) -> None:
        """As `StageSession.check_row`, of an open session."""
        before = known.decoding
        known.check_row(phase, takes_tokens, position, count, prefill_waits=prefill_waits)
        self.decoding += known.decoding - before

    def go_on(
        self, sender: PeerId, message: Forward, payloads: Sequence[P], now_s: float
    ) -> DecodeRows[P] | None:
        """Take a decode frame all of whose sessions do one step more, as nearly every frame does.

        Column by column, which costs a fraction of row by row.

        Returns:
            Its rows; None, and nothing has changed, where one of them wants a closer look.
        """
        names, positions = message.sessions, message.positions
        try:
            found = list(map(self._all.__getitem__, names))
        except KeyError:
            return None
        if (
            [known.decoded for known in found] != [position - 1 for position in positions]
            or tuple([known.attempt for known in found]) != message.attempts
            or len(set(names)) != len(names)
            or len(payloads) != len(names)
        ):
            return None
        ways, takes_tokens = {known.way for known in found}, bool(message.tokens)
        for way in ways:
            if way.previous != sender or way.takes_tokens != takes_tokens:
                return None
        for known, position in zip(found, positions, strict=True):
            if position + 1 < known.kv_tokens:
                known.decoded = position
                known.heard_s = now_s
            else:
                known.fill(position + 1, now_s)
        return DecodeRows(found, names, message.attempts, positions, message.sample, payloads, ways)

    def is_current(self, open_: Open) -> bool:
        """Whether a session is still open in this attempt."""
        known = self._all.get(open_.session)
        return known is not None and known.attempt == open_.attempt

    def all_current(self, rows: DecodeRows[P]) -> bool:
        """Whether the sessions of all rows are still open in these attempts."""
        return list(map(self._all.get, rows.sessions)) == rows.members

    def sampled(self, session: SessionId, token: int) -> None:
        """The last stage chose a token of an open session."""
        if self._historians and (known := self._all[session]).needs_history:
            known.history = (*known.history, token)

    def with_histories(self, rows: Sequence[StepRow[P]]) -> Sequence[StepRow[P]]:
        """The rows, with what came before where a row's sampling needs it."""
        return tuple([self._with_history(row) for row in rows]) if self._historians else rows

    def _share(self, open_: Open) -> Way:
        """The way that all sessions have which come from, run on and go to the same."""
        name = (open_.previous, (open_.layers.start, open_.layers.end), open_.next)
        shared = self._ways.get(name)
        if shared is None:
            shared = self._ways[name] = _Shared(Way(*name))
        shared.sessions += 1
        return shared.way

    def _take_out(self, session: SessionId) -> bool:
        ended = self._all.pop(session, None)
        if ended is None:
            return False
        self._historians -= ended.needs_history
        self.decoding -= ended.decoding
        name = (ended.way.previous, ended.way.span, ended.way.next)
        self._ways[name].sessions -= 1
        if not self._ways[name].sessions:
            del self._ways[name]
        return True

    def _with_history(self, row: StepRow[P]) -> StepRow[P]:
        known = self._all[row.open.session]
        if not (row.wanted and known.needs_history):
            return row
        return replace(row, history=known.history)
