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

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from helix_p2p.planning.plan import Placement
from helix_p2p.routing.iwrr import InterleavedRoundRobin
from helix_p2p.types import LayerRange, PeerId


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


class Router:
    """Owns the IWRR state of every peer on the way; one per entry peer, one per client.

    Clients use `choose_entry`, entry peers `choose`.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._edges: dict[PeerId | None, dict[PeerId, int]] = {}
        self._planned: dict[PeerId | None, InterleavedRoundRobin[PeerId]] = {}
        self._spare: dict[PeerId | None, InterleavedRoundRobin[PeerId]] = {}

    def follow(self, placement: Placement) -> None:
        """Take over a plan's flows as weights; peers that stay keep their place in the turn."""
        edges: dict[PeerId | None, dict[PeerId, int]] = {}
        for flow in placement.flows:
            if flow.target is not None:
                edges.setdefault(flow.source, {})[flow.target] = flow.mtokens_per_s
        self._edges = edges
        self._planned = {
            source: self._planned.get(source, InterleavedRoundRobin()) for source in edges
        }
        for source, weights in edges.items():
            self._planned[source].set_weights(weights)

    def choose_entry(
        self, serving: Mapping[PeerId, LayerRange], cost: float = 1.0
    ) -> PeerId | None:
        """The entry peer for the next request, None when no route exists."""
        reachable = last_layer_reachable(serving, self._layers)
        legal = {peer for peer in reachable if serving[peer].start == 0}
        return self._step(None, serving, legal, reachable, cost)

    def choose(
        self, entry: PeerId, serving: Mapping[PeerId, LayerRange], cost: float = 1.0
    ) -> Route | None:
        """A route that starts at `entry`.

        Args:
            entry: Must serve from layer 0.
            serving: What every usable peer serves; masked peers are absent.
            cost: Tokens that the request is expected to take.

        Returns:
            The route, or None when there is none.
        """
        held = serving.get(entry)
        if held is None or held.start != 0:
            return None
        reachable = last_layer_reachable(serving, self._layers)
        if entry not in reachable:
            return None
        route = [Hop(entry, held)]
        while route[-1].layers.end < self._layers:
            at = route[-1]
            legal = {p for p in reachable if follows(at.layers, serving[p])}
            chosen = self._step(at.peer, serving, legal, reachable, cost)
            if chosen is None:
                return None
            route.append(Hop(chosen, LayerRange(at.layers.end, serving[chosen].end)))
        return tuple(route)

    def _step(
        self,
        source: PeerId | None,
        serving: Mapping[PeerId, LayerRange],
        legal: set[PeerId],
        reachable: frozenset[PeerId],
        cost: float,
    ) -> PeerId | None:
        planned = self._edges.get(source, {})
        on_plan = last_layer_reachable(serving, self._layers, self._edges_by_peer())
        for allowed in (legal & planned.keys() & on_plan, legal & planned.keys() & reachable):
            if allowed:
                return self._planned[source].choose(allowed, cost)
        if not legal:
            return None
        spare = self._spare.setdefault(source, InterleavedRoundRobin())
        if set(spare.weights) != legal:
            spare.set_weights(dict.fromkeys(legal, 1.0))
        return spare.choose(legal, cost)

    def _edges_by_peer(self) -> dict[PeerId, Collection[PeerId]]:
        return {p: targets for p, targets in self._edges.items() if p is not None}
