"""The decode window of an entry peer: few frames in flight, each as full as can be.

On one machine a matrix product of eight rows costs hardly more than one of a single row, so merging
is everything: with two half-full frames in flight on shared cores a pipeline was measured at half
the tokens per second of one full frame. On W separate machines, W frames keep all of them busy
(docs/adr/0007).

Always: at most W frames per pipeline are in flight; when one returns, all that is ready forms the
next; a session is ready, in one frame, or neither; a token that stays away while the others of its
frame came back holds nobody else up for longer than `STRAGGLER_S`; no call costs more than the
sessions it is about, however many pipelines there are.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from helix_p2p.routing.route import Route
from helix_p2p.types import SessionId

STRAGGLER_S = 2.0
"""Rows of a frame stay together, unless a stage splits its batch and runs a prefill in between."""


@dataclass(slots=True, eq=False)
class _Lane:
    """One pipeline; it lives as long as sessions are on it."""

    route: Route
    width: int
    sessions: int = 0
    ready: dict[SessionId, None] = field(default_factory=dict)
    frames: int = 0


@dataclass(slots=True, eq=False)
class _Frame:
    """`left` of its rows are out; `over` once it holds nobody up any more."""

    lane: _Lane
    left: int
    returned_s: float | None = None
    over: bool = False


@dataclass(slots=True, eq=False)
class _Member:
    lane: _Lane
    frame: _Frame | None = None


class DecodeWindows:
    """Which sessions' next tokens go out now, per pipeline."""

    def __init__(self) -> None:
        self._lanes: dict[Route, _Lane] = {}
        self._members: dict[SessionId, _Member] = {}
        self._changed: dict[_Lane, None] = {}
        self._partly_back: dict[_Frame, None] = {}

    def join(self, session: SessionId, route: Route, width: int) -> None:
        """A session runs on a pipeline from now on.

        Args:
            session: In no other pipeline.
            route: The pipeline.
            width: Most frames of it in flight.
        """
        lane = self._lanes.get(route)
        if lane is None:
            lane = self._lanes[route] = _Lane(route, max(1, width))
        lane.sessions += 1
        self._members[session] = _Member(lane)

    def leave(self, session: SessionId) -> None:
        """It does no more; a token of it that is out will never be waited for."""
        member = self._members.get(session)
        if member is None:
            return
        self.returned(session)
        del self._members[session]
        lane = member.lane
        lane.sessions -= 1
        if not lane.sessions:
            del self._lanes[lane.route]
            self._changed.pop(lane, None)

    def widen(self, width_of: Callable[[Route], int]) -> None:
        """Pipelines may have another width now."""
        for lane in self._lanes.values():
            lane.width = max(1, width_of(lane.route))
            self._changed[lane] = None

    def ready(self, session: SessionId) -> None:
        """A session's next token can be computed."""
        lane = self._members[session].lane
        lane.ready[session] = None
        self._changed[lane] = None

    def returned(self, session: SessionId, now_s: float | None = None) -> None:
        """A session is in no frame and not ready any more.

        Args:
            session: Which.
            now_s: When its token came back; None when it never will.
        """
        member = self._members.get(session)
        if member is None:
            return
        frame = member.frame
        if frame is None:
            member.lane.ready.pop(session, None)
            return
        member.frame = None
        frame.left -= 1
        if frame.over:
            return
        if not frame.left:
            self._over(frame)
        elif now_s is not None and frame.returned_s is None:
            frame.returned_s = now_s
            self._partly_back[frame] = None

    def take(self, most: int, now_s: float) -> list[list[SessionId]]:
        """The frames that may go out now, at most `most` sessions in each."""
        for frame in list(self._partly_back):
            if frame.returned_s is not None and now_s < frame.returned_s + STRAGGLER_S:
                break  # those behind it came back later
            self._over(frame)
        out: list[list[SessionId]] = []
        for lane in self._changed:
            while lane.ready and lane.frames < lane.width:
                names = list(islice(lane.ready, most))
                frame = _Frame(lane, len(names))
                for name in names:
                    del lane.ready[name]
                    self._members[name].frame = frame
                lane.frames += 1
                out.append(names)
        self._changed.clear()
        return out

    def _over(self, frame: _Frame) -> None:
        frame.over = True
        self._partly_back.pop(frame, None)
        frame.lane.frames -= 1
        self._changed[frame.lane] = None
