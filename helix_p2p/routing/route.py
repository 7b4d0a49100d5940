"""From plan and view to a pipeline: the IWRR walk that never enters a dead end.

The plan says how many tokens per second go over each edge; the view says which peers serve which
layers right now. A walk starts at the entry peer and takes, at each peer, the next edge by
interleaved weighted round robin among those from which the last layer can still be reached.

Always: a route covers every layer once; each hop lies inside what its peer serves; a peer runs from
where the previous one ended to its own end (Helix's partial inference: j may follow i when
s_j ≤ e_i < e_j), so ends rise and no route can loop. Planned edges go first; when none of them
leads to the end (a peer was just lost, a plan is not loaded yet), any legal edge does: serving goes
on without a planner.
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from helix_p2p.planning.plan import Placement
from helix_p2p.routing.iwrr import InterleavedRoundRobin
from helix_p2p.types import LayerRange, PeerId

VIEWS_KEPT = 4
"""Peers without room are masked for moments, so the same few views come again and again."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a route."""

    peer: PeerId
    layers: LayerRange


Route = tuple[Hop, ...]


def last_layer_reachable(
    serving: Mapping[PeerId, LayerRange],
    layers: int,
    edges: Mapping[PeerId, Collection[PeerId]] | None = None,
) -> frozenset[PeerId]:
    """Peers from whose end a route to the last layer exists.

    Args:
        serving: What each usable peer serves.
        layers: L.
        edges: Follow only these; None allows every legal edge.
    """
    reachable: set[PeerId] = set()
    for peer, held in sorted(serving.items(), key=lambda item: (-item[1].end, item[0])):
        if held.end == layers:
            reachable.add(peer)
            continue
        onward = reachable if edges is None else reachable.intersection(edges.get(peer, ()))
        if any(follows(held, serving[other]) for other in onward):
            reachable.add(peer)
    return frozenset(reachable)


def follows(held: LayerRange, other: LayerRange) -> bool:
    """Whether `other`'s peer can take over where `held` ends."""
    return other.start <= held.end < other.end


class _Ways:
    """Where one view of the swarm leads, worked out once: a view changes seldom, walks are many.

    `planned` and `legal` hold, per peer, the next peers from which the last layer can be reached:
    over planned edges alone, over one planned edge and then any, over any.
    """

    def __init__(
        self,
        serving: Mapping[PeerId, LayerRange],
        layers: int,
        edges: Mapping[PeerId | None, Mapping[PeerId, int]],
    ) -> None:
        self.serving = dict(serving)
        self.reachable = last_layer_reachable(serving, layers)
        by_peer = {p: targets for p, targets in edges.items() if p is not None}
        self._on_plan = last_layer_reachable(serving, layers, by_peer)
        self._edges = edges
        self._next: dict[PeerId | None, tuple[frozenset[PeerId], bool]] = {}

    def onward(self, source: PeerId | None) -> tuple[frozenset[PeerId], bool]:
        """Whom to choose from after `source` (None: the client), and whether the plan says so."""
        found = self._next.get(source)
        if found is None:
            found = self._next[source] = self._look(source)
        return found

    def _look(self, source: PeerId | None) -> tuple[frozenset[PeerId], bool]:
        serving = self.serving
        if source is None:
            legal = frozenset(p for p in self.reachable if serving[p].start == 0)
        else:
            held = serving[source]
            legal = frozenset(p for p in self.reachable if follows(held, serving[p]))
        planned = legal.intersection(self._edges.get(source, ()))
        if planned:
            return planned & self._on_plan or planned, True
        return legal, False


class Router:
    """Owns the IWRR state of every peer on the way; one per entry peer, one per client.

    Clients use `choose_entry`, entry peers `choose`.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._edges: dict[PeerId | None, dict[PeerId, int]] = {}
        self._planned: dict[PeerId | None, InterleavedRoundRobin[PeerId]] = {}
        self._spare: dict[PeerId | None, InterleavedRoundRobin[PeerId]] = {}
        self._ways: deque[_Ways] = deque(maxlen=VIEWS_KEPT)
        self._hops: dict[tuple[PeerId, int, int], Hop] = {}

    def follow(self, placement: Placement) -> None:
        """Take over a plan's flows as weights; peers that stay keep their place in the turn."""
        edges: dict[PeerId | None, dict[PeerId, int]] = {}
        for flow in placement.flows:
            if flow.target is not None:
                edges.setdefault(flow.source, {})[flow.target] = flow.mtokens_per_s
        self._edges = edges
        self._ways.clear()
        self._hops = {}
        self._planned = {
            source: self._planned.get(source, InterleavedRoundRobin()) for source in edges
        }
        for source, weights in edges.items():
            self._planned[source].set_weights(weights)

    def choose_entry(
        self, serving: Mapping[PeerId, LayerRange], cost: float = 1.0
    ) -> PeerId | None:
        """The entry peer for the next request, None when no route exists."""
        return self._step(None, self._ways_of(serving), cost)

    def choose(
        self,
        entry: PeerId,
        serving: Mapping[PeerId, LayerRange],
        cost: float = 1.0,
        preferred: Route = (),
    ) -> Route | None:
        """A route that starts at `entry`.

        Args:
            entry: Must serve from layer 0.
            serving: What every usable peer serves; masked peers are absent.
            cost: Tokens that the request is expected to take.
            preferred: A way that it would rather go, as far as turns allow (`iwrr.py`).

        Returns:
            The route, or None when there is none.
        """
        held = serving.get(entry)
        if held is None or held.start != 0:
            return None
        ways = self._ways_of(serving)
        if entry not in ways.reachable:
            return None
        route = [Hop(entry, held)]
        while route[-1].layers.end < self._layers:
            at = route[-1]
            number = len(route)
            on_way = preferred[:number] == tuple(route) and number < len(preferred)
            wanted = preferred[number].peer if on_way else None
            chosen = self._step(at.peer, ways, cost, wanted)
            if chosen is None:
                return None
            route.append(self._hop(chosen, at.layers.end, serving[chosen].end))
        return tuple(route)

    def _hop(self, peer: PeerId, start: int, end: int) -> Hop:
        """Made once for all routes: thousands of sessions hold the same few."""
        known = self._hops.get((peer, start, end))
        if known is None:
            known = self._hops[peer, start, end] = Hop(peer, LayerRange(start, end))
        return known

    def _ways_of(self, serving: Mapping[PeerId, LayerRange]) -> _Ways:
        for ways in self._ways:
            if ways.serving == serving:
                return ways
        fresh = _Ways(serving, self._layers, self._edges)
        self._ways.append(fresh)
        return fresh

    def _step(
        self, source: PeerId | None, ways: _Ways, cost: float, preferred: PeerId | None = None
    ) -> PeerId | None:
        allowed, planned = ways.onward(source)
        if planned:
            return self._planned[source].choose(allowed, cost, preferred)
        if not allowed:
            return None
        spare = self._spare.setdefault(source, InterleavedRoundRobin())
        if spare.weights.keys() != allowed:
            spare.set_weights(dict.fromkeys(sorted(allowed), 1.0))
        return spare.choose(allowed, cost, preferred)
