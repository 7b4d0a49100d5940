"""Where a token's time goes, when its client asks: each stage says what it measured itself.

    entry ─ Forward(trace) ─▶ stage: queue, compute, hand-over ─▶ … ─▶ Sampled(trace) ─▶ entry

Durations travel, never moments, so clocks need not agree: the entry peer knows the whole round, and
what no stage spent is the network's and the framing's. Always: the parts of a token add up to its
round; without a traced session in a frame nothing is looked up or sent.
"""

import time
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from helix_p2p.session.effects import RunStep
from helix_p2p.session.messages import Forward, Sampled, StageSpan, TokenTrace, Trace
from helix_p2p.types import SessionId

P = TypeVar("P")

MOST_TRACED = 64


@dataclass(slots=True)
class _Here:
    """A traced session's frame on this stage."""

    before: tuple[StageSpan, ...]
    arrived_s: float
    start_s: float = 0.0
    end_s: float = 0.0


@dataclass(slots=True)
class _Round:
    """A traced session at its entry peer."""

    sent_s: float
    entry_s: float | None
    returned_s: float | None = None


class Tracer:
    """One peer's part of all traces, as stage and as entry peer."""

    def __init__(self) -> None:
        self._here: dict[SessionId, _Here] = {}
        self._rounds: dict[SessionId, _Round] = {}
        self._clock = time.perf_counter

    @property
    def active(self) -> bool:
        """Whether a traced frame is on this stage."""
        return bool(self._here)

    def arrived(self, trace: Trace) -> None:
        """A traced frame came, from our own entry machine when no stage has it behind it."""
        now_s = self._clock()
        for kept in (self._here, self._rounds):
            while len(kept) >= MOST_TRACED:  # of sessions that ended on the way
                del kept[next(iter(kept))]
        if not trace.spans:
            last = self._rounds.get(trace.session)
            returned_s = None if last is None else last.returned_s
            entry_s = None if returned_s is None else now_s - returned_s
            self._rounds[trace.session] = _Round(now_s, entry_s)
        self._here[trace.session] = _Here(trace.spans, now_s)

    def ran(self, step: RunStep[P], start_s: float, took_s: float) -> None:
        """A step is done."""
        for row in step.rows:
            here = self._here.get(row.session)
            if here is not None:
                here.start_s, here.end_s = start_s, start_s + took_s

    def leaving(self, message: Forward | Sampled) -> Forward | Sampled:
        """The frame as it goes on; of several traced sessions in it, the first one's trace."""
        trace = None
        for session in message.sessions:
            here = self._here.pop(session, None)
            if here is not None and trace is None and here.end_s:
                span = StageSpan(
                    here.start_s - here.arrived_s,
                    here.end_s - here.start_s,
                    self._clock() - here.end_s,
                )
                trace = Trace(session, (*here.before, span))
        return message if trace is None else replace(message, trace=trace)

    def returned(self, trace: Trace) -> TokenTrace | None:
        """A token is back at its entry peer; None when it was not traced from here."""
        went = self._rounds.get(trace.session)
        if went is None:
            return None
        went.returned_s = self._clock()
        spent_s = sum(s.queue_s + s.compute_s + s.hand_s for s in trace.spans)
        wire_s = went.returned_s - went.sent_s - spent_s
        return TokenTrace(trace.spans, wire_s, went.entry_s)
