"""The steps of one stage: what waits, what runs, and what must run again because it failed.

A step of several rows that the engine refuses is run again in halves, until what fails alone is
alone. That does nothing twice, since a write to the KV cache is idempotent.

Always: at most one step is out; what failed is repeated before anything new runs, without the
sessions that ended since; a row is in the inbox, in the step that is out or in one to be repeated,
and in one of them only.
"""

from collections import deque
from typing import Generic, TypeVar

from msgspec.structs import replace

from helix_p2p.session.effects import Effect, RunStep, StepRow
from helix_p2p.session.inbox import Inbox
from helix_p2p.session.messages import Open
from helix_p2p.session.open_sessions import StageSessions
from helix_p2p.session.pace import PrefillPace

P = TypeVar("P")


class Steps(Generic[P]):
    """The steps of one stage.

    Args:
        sessions: Who is open; only they run.
        decode_batch: Most decode rows in a step.
        prefill_tokens: Most prefill positions in a step.
    """

    def __init__(self, sessions: StageSessions, decode_batch: int, prefill_tokens: int) -> None:
        self.inbox: Inbox[P] = Inbox(decode_batch, prefill_tokens)
        self._sessions = sessions
        self._pace = PrefillPace(prefill_tokens)
        self._running: RunStep[P] | None = None
        self._changes_before = 0
        self._again: deque[RunStep[P]] = deque()

    def next(self) -> list[Effect[P]]:
        """The step to run now; none while one is out, or when nothing can run."""
        if self._running is not None:
            return []
        self._running = (self._repeated() if self._again else None) or self._fresh()
        self._changes_before = self._sessions.changes
        return [] if self._running is None else [self._running]

    def done(self, took_s: float | None) -> tuple[RunStep[P], bool]:
        """The step that was out has run.

        Args:
            took_s: How long; None where chunks are not to adapt to it.

        Returns:
            It, and whether all its sessions are still open as they were when it began.
        """
        step = self._finish()
        if took_s is not None:
            self._pace.ran(step.phase, sum([row.count for row in step.rows]), took_s)
        return step, self._sessions.changes == self._changes_before

    def failed(self) -> StepRow[P] | None:
        """The engine refused the step that was out.

        Returns:
            The row that it refuses; None when that is yet to be found.
        """
        step = self._finish()
        middle = len(step.rows) // 2
        if middle:
            halves = (step.rows[:middle], step.rows[middle:])
            self._again.extend(replace(step, rows=rows) for rows in halves)
            return None
        (row,) = step.rows
        return row

    def first_position(self, open_: Open) -> int | None:
        """Where a session's rows that have not run begin; None when all have."""
        steps = (*self._again, *(() if self._running is None else (self._running,)))
        under_way = [row.position for step in steps for row in step.rows if row.open is open_]
        waiting = self.inbox.first_position(open_.session)
        if waiting is not None:
            under_way.append(waiting)
        return min(under_way, default=None)

    def _finish(self) -> RunStep[P]:
        if self._running is None:
            raise AssertionError("no step is running")
        step, self._running = self._running, None
        return step

    def _repeated(self) -> RunStep[P] | None:
        """A part of a step that failed, less the sessions that ended since."""
        while self._again:
            step = self._again.popleft()
            rows = tuple(row for row in step.rows if self._sessions.is_current(row.open))
            if rows:
                return replace(step, rows=rows)
        return None

    def _fresh(self) -> RunStep[P] | None:
        if self.inbox.prefill_waits:
            decoding = self._sessions.decoding
            waiting = len(self._sessions) - decoding
            budget = self._pace.positions(decoding=decoding, waiting=waiting)
            self.inbox.prefill_tokens, self.inbox.fills = budget, budget < self._pace.most
        found = self.inbox.take()
        if found is None:
            return None
        phase, rows = found
        layers = rows[0].open.layers
        rows = self._sessions.with_histories(rows)
        return RunStep(phase, layers, rows, layers.start == 0)
