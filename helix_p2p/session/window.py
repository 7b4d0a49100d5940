"""The decode window of an entry peer: few frames in flight, each as full as can be.

On one machine a matrix product of eight rows costs hardly more than one of a single row, so merging
is everything: with two half-full frames in flight on shared cores a pipeline was measured at half
the tokens per second of one full frame. On W separate machines, W frames keep all of them busy
(docs/adr/0007).

Always: at most W frames per pipeline are in flight; when one returns, all that is ready forms the
next; a session is ready, in one frame, or neither.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

from helix_p2p.types import SessionId

Pipeline = Hashable


@dataclass(slots=True)
class _Lane:
    width: int
    ready: dict[SessionId, None] = field(default_factory=dict)
    frames: int = 0


class DecodeWindows:
    """Which sessions' next tokens go out now, per pipeline."""

    def __init__(self) -> None:
        self._lanes: dict[Pipeline, _Lane] = {}
        self._frame_of: dict[SessionId, int] = {}
        self._frames: dict[int, tuple[Pipeline, set[SessionId]]] = {}
        self._next_frame = 0

    def ready(self, pipeline: Pipeline, width: int, session: SessionId) -> None:
        """A session's next token can be computed."""
        lane = self._lanes.setdefault(pipeline, _Lane(width))
        lane.width = max(1, width)
        lane.ready[session] = None

    def returned(self, session: SessionId) -> None:
        """A session's token came back, or never will; it is in no frame and not ready any more."""
        for lane in self._lanes.values():
            lane.ready.pop(session, None)
        frame = self._frame_of.pop(session, None)
        if frame is None:
            return
        pipeline, members = self._frames[frame]
        members.discard(session)
        if not members:
            del self._frames[frame]
            self._lanes[pipeline].frames -= 1

    def take(self, most: int) -> list[list[SessionId]]:
        """The frames that may go out now, at most `most` sessions in each."""
        out: list[list[SessionId]] = []
        for pipeline, lane in list(self._lanes.items()):
            while lane.ready and lane.frames < lane.width:
                members = list(lane.ready)[:most]
                for session in members:
                    del lane.ready[session]
                    self._frame_of[session] = self._next_frame
                self._frames[self._next_frame] = (pipeline, set(members))
                self._next_frame += 1
                lane.frames += 1
                out.append(members)
            if not lane.ready and not lane.frames:
                del self._lanes[pipeline]
        return out
