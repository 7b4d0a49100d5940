"""The decode window of an entry peer: few frames in flight, each as full as can be.

On one machine a matrix product of eight rows costs hardly more than one of a single row, so merging
is everything: with two half-full frames in flight on shared cores a pipeline was measured at half
the tokens per second of one full frame. On W separate machines, W frames keep all of them busy
(docs/adr/0007).

Always: at most W frames per pipeline are in flight; when one returns, all that is ready forms the
next; a session is ready, in one frame, or neither; a token that stays away while the others of its
frame came back holds nobody else up for longer than `STRAGGLER_S`.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

from helix_p2p.types import SessionId

Pipeline = Hashable

STRAGGLER_S = 2.0
"""Rows of a frame stay together, unless a stage splits its batch and runs a prefill in between."""


@dataclass(slots=True)
class _Lane:
    width: int
    ready: dict[SessionId, None] = field(default_factory=dict)
    frames: int = 0


@dataclass(slots=True)
class _Frame:
    lane: _Lane
    members: set[SessionId]
    returned_s: float | None = None


class DecodeWindows:
    """Which sessions' next tokens go out now, per pipeline."""

    def __init__(self) -> None:
        self._lanes: dict[Pipeline, _Lane] = {}
        self._frame_of: dict[SessionId, int] = {}
        self._frames: dict[int, _Frame] = {}
        self._next_frame = 0

    def ready(self, pipeline: Pipeline, width: int, session: SessionId) -> None:
        """A session's next token can be computed."""
        lane = self._lanes.setdefault(pipeline, _Lane(width))
        lane.width = max(1, width)
        lane.ready[session] = None

    def returned(self, session: SessionId, now_s: float | None = None) -> None:
        """A session is in no frame and not ready any more.

        Args:
            session: Which.
            now_s: When its token came back; None when it never will.
        """
        for lane in self._lanes.values():
            lane.ready.pop(session, None)
        number = self._frame_of.pop(session, None)
        if number is None:
            return
        frame = self._frames[number]
        frame.members.discard(session)
        if now_s is not None and frame.returned_s is None:
            frame.returned_s = now_s
        if not frame.members:
            self._over(number)

    def take(self, most: int, now_s: float) -> list[list[SessionId]]:
        """The frames that may go out now, at most `most` sessions in each."""
        for number, frame in list(self._frames.items()):
            if frame.returned_s is not None and now_s >= frame.returned_s + STRAGGLER_S:
                self._over(number)
        out: list[list[SessionId]] = []
        for pipeline, lane in list(self._lanes.items()):
            while lane.ready and lane.frames < lane.width:
                members = list(lane.ready)[:most]
                for session in members:
                    del lane.ready[session]
                    self._frame_of[session] = self._next_frame
                self._frames[self._next_frame] = _Frame(lane, set(members))
                self._next_frame += 1
                lane.frames += 1
                out.append(members)
            if not lane.ready and not lane.frames:
                del self._lanes[pipeline]
        return out

    def _over(self, number: int) -> None:
        frame = self._frames.pop(number)
        for session in frame.members:
            del self._frame_of[session]
        frame.lane.frames -= 1
