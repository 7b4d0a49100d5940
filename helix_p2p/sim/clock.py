"""Virtual time: what is due next happens next, and nothing else moves the clock.

Always: time never goes back; what is due at the same moment happens in the order in which it was
asked for, so a run is a pure function of its inputs and seed; the hash over what happened is equal
exactly when two runs were.
"""

import hashlib
import struct
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

_PACK = struct.Struct("<d").pack


class VirtualTime:
    """A queue of things to do."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def at(self, at_s: float, action: Callable[..., None], *args: object) -> None:
        """Do something at a time; what is already past is due now."""
        self._order += 1
        if at_s < self.now_s:
            at_s = self.now_s
        heappush(self._heap, (at_s, self._order, action, args))

    def after(self, delay_s: float, action: Callable[..., None], *args: object) -> None:
        """Do something in so many seconds."""
        self._order += 1
        at_s = self.now_s + delay_s if delay_s > 0 else self.now_s
        heappush(self._heap, (at_s, self._order, action, args))

    def note(self, what: bytes) -> None:
        """Make something that happened part of the trace."""
        self._digest.update(_PACK(self.now_s))
        self._digest.update(what)

    def trace_hash(self) -> str:
        """Over all notes so far."""
        return self._digest.hexdigest()

    def run(self, until_s: float) -> None:
        """Let time pass up to a moment, that moment included."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self.now_s, _, action, args = heappop(heap)
            self.events += 1
            action(*args)
        self.now_s = max(self.now_s, until_s)
