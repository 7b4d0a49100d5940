"""Peers that live and have become slow: found by comparing pipelines, left out where others serve.

An entry peer sees whole pipelines only, so each span of tokens is charged to every peer on the way.
What tells the slow one is its best recent span: every other peer is soon part of a pipeline without
it. Spans are compared with the peer's own best, so that slow hardware is no fault (the plan knows
its speed), and the others' must not have grown alike, so that load is none either. Where all have
slowed down alike, as they do on the only pipeline in use, a route now and then goes around one of
them: what it takes tells a slow peer from load. Grey failure: Huang et al., "Gray Failure: The
Achilles' Heel of Cloud-Scale Systems", HotOS 2017.

Always: nobody is left out on less than `SPANS` spans, or where there is nobody to compare with;
being left out ends by itself; one route per `TRY_S` is spent on finding out.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from helix_p2p.routing.masks import Masks
from helix_p2p.types import PeerId, SessionId

SPAN_TOKENS = 8
SPANS = 3
"""Of these the best counts."""
RECENT_S = 30.0
SLOWER = 3.0
"""Times its own best, beyond what another one has slowed down in the same time."""
TRY_S = 2.0
"""A conversation that is sent another way computes again what its old way had kept."""


@dataclass(slots=True)
class _Pace:
    """Of one peer: seconds per token."""

    best_s: float
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=SPANS))

    def slowdown(self, since_s: float) -> float | None:
        """The best span since then against the best ever; None when there is none."""
        recent = [step_s for at_s, step_s in self.recent if at_s >= since_s]
        return min(recent) / self.best_s if recent and self.best_s > 0 else None


@dataclass(slots=True)
class _Span:
    since_s: float
    tokens: int = 0


class SlowPeers:
    """Who has become slow, as one entry peer (or one client) sees it."""

    def __init__(self) -> None:
        self._paces: dict[PeerId, _Pace] = {}
        self._spans: dict[SessionId, _Span] = {}
        self._masks: Masks[PeerId] = Masks(shortest_s=30.0, longest_s=120.0)
        self._unclear: dict[PeerId, float] = {}
        """Who has slowed down like all others, with when that was seen last; in turn."""
        self._try_due_s = 0.0

    def forget(self) -> None:
        """A new plan: peers hold other layers, what was measured says nothing any more."""
        self._paces.clear()
        self._spans.clear()
        self._unclear.clear()

    def token(self, session: SessionId, peers: Iterable[PeerId], now_s: float) -> None:
        """A token of a session came; its first one only starts the clock."""
        span = self._spans.get(session)
        if span is None:
            self._spans[session] = _Span(now_s)
            return
        span.tokens += 1
        if span.tokens >= SPAN_TOKENS and now_s > span.since_s:
            self._charge(tuple(peers), (now_s - span.since_s) / span.tokens, now_s)
            self._spans[session] = _Span(now_s)

    def over(self, session: SessionId) -> None:
        """A session has left its pipeline."""
        self._spans.pop(session, None)

    def slow(self, now_s: float) -> frozenset[PeerId]:
        """Whom to leave out where there is a way around."""
        return self._masks.masked(now_s)

    def suspect(self, now_s: float, but: PeerId | None = None) -> PeerId | None:
        """Whom the next route, and only that, should go around where it can; mostly nobody.

        Args:
            now_s: Now.
            but: Who is on every route.
        """
        if now_s < self._try_due_s:
            return None
        for peer, seen_s in list(self._unclear.items()):
            if now_s - seen_s > RECENT_S:
                del self._unclear[peer]
            elif peer != but:
                self._unclear[peer] = self._unclear.pop(peer)  # the next one's turn
                self._try_due_s = now_s + TRY_S
                return peer
        return None

    def _charge(self, peers: tuple[PeerId, ...], step_s: float, now_s: float) -> None:
        for peer in peers:
            pace = self._paces.get(peer)
            if pace is None:
                pace = self._paces[peer] = _Pace(step_s)
            if step_s < pace.best_s:
                pace.best_s = step_s
            pace.recent.append((now_s, step_s))
        for peer in peers:
            pace = self._paces[peer]
            if step_s <= SLOWER * pace.best_s:
                self._unclear.pop(peer, None)
                continue  # its best recent span is no longer than this one
            since_s = pace.recent[0][0]
            if len(pace.recent) < SPANS or now_s - since_s > RECENT_S:
                continue
            own = pace.slowdown(since_s)
            if own is None or own <= SLOWER:
                continue  # nobody is faster than its own best, so no need to look at the others
            others = [
                slowdown
                for other, known in self._paces.items()
                if other != peer and (slowdown := known.slowdown(since_s)) is not None
            ]
            if others and own > SLOWER * min(others):
                self._masks.fail(peer, now_s)
                self._unclear.pop(peer, None)
                pace.recent.clear()
            else:
                self._unclear[peer] = now_s
