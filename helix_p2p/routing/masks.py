"""Peers, or ways between two peers, that are left out of routes for a while.

Always: a mask ends by itself; each further failure of the same peer in a short time doubles it, up
to a bound, and a success forgets it.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FORGET_S = 60.0


@dataclass(slots=True)
class _Mask:
    until_s: float
    length_s: float


class Masks(Generic[K]):
    """Who is masked until when."""

    def __init__(self, *, shortest_s: float = 0.5, longest_s: float = 30.0) -> None:
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._masks: dict[K, _Mask] = {}

    def fail(self, peer: K, now_s: float, at_least_s: float = 0.0) -> float:
        """Mask a peer that failed or was busy; returns when it is tried again."""
        known = self._masks.get(peer)
        if known is None or now_s > known.until_s + FORGET_S:
            length = self._shortest_s
        else:
            length = min(self._longest_s, known.length_s * 2)
        length = max(length, at_least_s)
        for gone in [p for p, m in self._masks.items() if now_s > m.until_s + FORGET_S]:
            del self._masks[gone]
        self._masks[peer] = _Mask(now_s + length, length)
        return now_s + length

    def succeed(self, peer: K) -> None:
        """A peer answered as it should."""
        self._masks.pop(peer, None)

    def masked(self, now_s: float) -> frozenset[K]:
        """Who is left out now."""
        return frozenset(peer for peer, mask in self._masks.items() if mask.until_s > now_s)
