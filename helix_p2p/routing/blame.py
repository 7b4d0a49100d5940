"""What one stage says against its neighbour: it costs the way between them, not the neighbour.

Only the two ends of a way know what went over it, and either may lie: a stage that is slow, or
evil, can say that the next one is gone. So an accusation cuts the way from the one to the other for
a while, and nothing else. Whoever accuses falsely loses its own ways one by one, until no route
leads through it; the accused is reached by other ways. A peer itself is masked on better grounds:
what this entry peer sees itself (a broken link, silence), what the peer admits, or when two
different neighbours agree.

Always: the word of one peer never masks another; all is forgotten after a while.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

from helix_p2p.routing.masks import Masks
from helix_p2p.routing.route import Route
from helix_p2p.types import LayerRange, PeerId

AGREE_S = 30.0
"""Two accusers agree when they speak within this time."""
ACCUSERS = 2
DISPUTE_S = 120.0
DETOURS = 16
ACCUSED_KEPT = 1024

Serving = Mapping[PeerId, LayerRange]
Way = tuple[PeerId, PeerId]


class Blame:
    """Accusations that one entry peer has heard."""

    def __init__(self) -> None:
        self._cut: Masks[Way] = Masks()
        self._accusers: dict[PeerId, dict[PeerId, float]] = {}

    def accuse(self, accuser: PeerId, accused: PeerId, way: Way, now_s: float) -> bool:
        """A stage blames its neighbour.

        Args:
            accuser: Who says it.
            accused: The neighbour, before or behind it.
            way: Both, in the order of the pipeline.
            now_s: Now.

        Returns:
            Whether enough different peers say so to mask the accused.
        """
        self._cut.fail(way, now_s)
        said = self._accusers.pop(accused, {})
        said[accuser] = now_s
        fresh = {who: at_s for who, at_s in said.items() if now_s - at_s < AGREE_S}
        self._accusers[accused] = fresh
        while len(self._accusers) > ACCUSED_KEPT:
            del self._accusers[next(iter(self._accusers))]
        return len(fresh) >= ACCUSERS

    def dispute(self, way: Way, now_s: float) -> None:
        """Two neighbours contradict each other on what went between them."""
        self._cut.fail(way, now_s, at_least_s=DISPUTE_S)

    def worked(self, route: Route) -> None:
        """A generation ended well on this route."""
        for way in _ways(route):
            self._cut.succeed(way)

    def around(
        self, choose: Callable[[Serving], Route | None], usable: Serving, now_s: float
    ) -> Route | None:
        """A route over no way that is cut: detours leave out one end of such a way, then the other.

        Args:
            choose: Gives a route over these peers.
            usable: Peers that are not masked.
            now_s: Now.
        """
        cut = self._cut.masked(now_s)
        waiting: list[frozenset[PeerId]] = [frozenset()]
        for _ in range(DETOURS):
            if not waiting:
                return None
            without = waiting.pop(0)
            route = choose({p: held for p, held in usable.items() if p not in without})
            if route is None:
                continue
            way = next((way for way in _ways(route) if way in cut), None)
            if way is None:
                return route
            first, second = way
            waiting.append(without | {second})
            if first != route[0].peer:  # every route begins here
                waiting.append(without | {first})
        return None


def _ways(route: Route) -> list[Way]:
    return [(one.peer, other.peer) for one, other in pairwise(route)]
