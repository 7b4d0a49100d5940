"""When the way to a next stage counts as full, and when there is room on it again.

The answer to a full way is the stage machine's: prefill for it stays in its inbox, uncomputed, and
other sessions go first (`StageMachine.on_congested`). Whoever drives the machine, with real streams
or in virtual time, asks here what to tell it.

Always: a peer is full or it is not; between the two marks nothing changes.
"""

from collections.abc import Callable

from helix_p2p.types import PeerId

FULL_BYTES = 32 * 1024 * 1024
"""Waiting for one peer; more prefill for it is not computed then. A chunk of 256 tokens is 4 MiB at
d_model 8192 in bf16, and an uplink of 20 Mbit/s takes 1.7 s for it."""
DRAINED_BYTES = FULL_BYTES // 2
LOOK_AGAIN_S = 0.1
"""How soon after it was full to look whether a way has drained."""


class Backpressure:
    """The ways out of one peer."""

    def __init__(self) -> None:
        self._full: set[PeerId] = set()

    @property
    def any_full(self) -> bool:
        """Whether there is a way to look after."""
        return bool(self._full)

    def fills(self, peer: PeerId, queued_bytes: float) -> bool:
        """Whether the way to a peer is full with what was just sent."""
        if queued_bytes > FULL_BYTES:
            self._full.add(peer)
        return queued_bytes > FULL_BYTES

    def drained(self, queued_bytes: Callable[[PeerId], float]) -> list[PeerId]:
        """Ways that have room again."""
        ready = sorted(peer for peer in self._full if queued_bytes(peer) < DRAINED_BYTES)
        self._full.difference_update(ready)
        return ready
