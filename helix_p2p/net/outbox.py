"""What waits to be sent to one peer: two lanes, bounded, decode before prefill.

A decode step is a few kilobytes that a whole pipeline waits for; a prefill chunk is megabytes. So
urgent frames go first, packed into one write; of the others one at a time, that an urgent one may
overtake the rest. After `URGENT_IN_A_ROW` urgent frames a waiting other one has its turn, so that
a busy decode stream delays a prefill and never stops it.

Always: within a lane the order of `put` is kept; the bounds hold whatever is put.
"""

from collections import deque

from helix_p2p.errors import Busy
from helix_p2p.net.transport import Buffer, size_bytes

PACK_BYTES = 64 * 1024
"""Enough to fill a write; asyncio and the daemon move this much at a time."""
URGENT_IN_A_ROW = 64

Frame = tuple[Buffer, ...]


class Outbox:
    """Frames for one peer.

    Args:
        limit_frames: At most this many wait.
        limit_bytes: At most this much waits; a single larger frame still passes when none waits.
    """

    def __init__(self, *, limit_frames: int, limit_bytes: int) -> None:
        self._limit_frames = limit_frames
        self._limit_bytes = limit_bytes
        self._urgent: deque[tuple[int, Frame]] = deque()
        self._other: deque[tuple[int, Frame]] = deque()
        self._urgent_in_a_row = 0
        self.waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._urgent) + len(self._other)

    def put(self, frame: Frame, *, urgent: bool) -> int:
        """Add a frame.

        Returns:
            Its size in bytes.

        Raises:
            Busy: There is no room.
        """
        size = sum(map(size_bytes, frame))
        if len(self) >= self._limit_frames or (
            self.waiting_bytes + size > self._limit_bytes and len(self)
        ):
            raise Busy(f"{len(self)} frames ({self.waiting_bytes} bytes) wait to be sent already")
        (self._urgent if urgent else self._other).append((size, frame))
        self.waiting_bytes += size
        return size

    def take(self) -> list[Buffer]:
        """What to write next, as one piece; empty when nothing waits."""
        buffers: list[Buffer] = []
        if not self._urgent or (self._other and self._urgent_in_a_row >= URGENT_IN_A_ROW):
            self._urgent_in_a_row = 0
            if self._other:
                buffers.extend(self._pop(self._other))
            return buffers
        packed = 0
        while self._urgent and (not packed or packed + self._urgent[0][0] <= PACK_BYTES):
            packed += self._urgent[0][0]
            buffers.extend(self._pop(self._urgent))
            self._urgent_in_a_row += 1
        return buffers

    def _pop(self, lane: deque[tuple[int, Frame]]) -> Frame:
        size, frame = lane.popleft()
        self.waiting_bytes -= size
        return frame
