"""Flow on edges: how many tokens per second go from whom to whom under a placement.

Three ways to the same value. `sweep_flow` walks the line 0..L once and is exact where no pairwise
link binds: whatever flow ends at layer v is handed to the holders of v that reach furthest, and
because every layer is covered there is always room. It gives few edges and few hops. `max_flow` is
a real max flow over the peers' graph, for swarms where links do bind. `cheapest_flow` (next module)
chooses among equal flows by latency.

Always: integers; conserved at every peer; only over links that exist; an edge i → j obeys
s_j ≤ e_i < e_j (partial inference) and never enters a peer that holds layer 0, since a request that
starts over there needed no earlier stage.
Source: Helix §4 for the graph; min cut by residual reachability (Ford and Fulkerson).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import MTOKENS, Capacities, Ints
from helix_p2p.planning.coverage import Layout, coverage
from helix_p2p.planning.plan import EdgeFlow, MinCut
from helix_p2p.types import PeerId

UNBOUND = 2**30
"""Capacity of what does not bind; scipy's max flow counts in 32 bits."""


@dataclass(frozen=True)
class Routing:
    """A flow and why it cannot be larger.

    Attributes:
        value_mtokens_per_s: Out of the clients' side.
        flows: Every edge that carries some.
        min_cut: Of the same value.
    """

    value_mtokens_per_s: int
    flows: tuple[EdgeFlow, ...]
    min_cut: MinCut


def route_flow(snapshot: Snapshot, capacities: Capacities, layout: Layout) -> Routing:
    """The max flow of a placement, over true links where any of them can bind."""
    swept = sweep_flow(capacities, layout)
    if not links_may_bind(snapshot) or _fits_links(snapshot, swept):
        return swept
    return max_flow(snapshot, capacities, layout)


def _fits_links(snapshot: Snapshot, routing: Routing) -> bool:
    for edge in routing.flows:
        if edge.source is None or edge.target is None:
            continue
        link = snapshot.link(edge.source, edge.target)
        if link is None or edge.mtokens_per_s > link_mtokens_per_s(
            link.bandwidth_bytes_per_s, snapshot.model.activation_bytes
        ):
            return False
    return True


def links_may_bind(snapshot: Snapshot) -> bool:
    """Whether some pair has no way, or one whose bandwidth is known."""
    if snapshot.default_link is None or snapshot.default_link.bandwidth_bytes_per_s is not None:
        return True
    return any(link.bandwidth_bytes_per_s is not None for link in snapshot.links.values())


def sweep_flow(capacities: Capacities, layout: Layout) -> Routing:
    """Exact max flow where no pairwise link binds, with at most two edges per peer on average."""
    carried = coverage(capacities, layout)
    value, layer = int(carried.min()), int(carried.argmin())
    room = capacities.of_layout(layout.starts, layout.ends).copy()
    starts, ends = layout.starts, layout.ends
    peers = capacities.peers
    flows: list[EdgeFlow] = []
    through = np.zeros(len(peers), dtype=np.int64)
    for at in range(capacities.layers):
        if at == 0:
            sources: list[tuple[int | None, int]] = [(None, value)]
            holders = np.flatnonzero((starts == 0) & (ends > 0))
        else:
            sources = [
                (int(i), int(through[i])) for i in np.flatnonzero((ends == at) & (through > 0))
            ]
            if not sources:
                continue
            holders = np.flatnonzero((starts > 0) & (starts <= at) & (ends > at) & (room > 0))
        waiting = [int(i) for i in holders[np.lexsort((holders, -room[holders], -ends[holders]))]]
        flows.extend(_hand_over(sources, waiting, room, through, peers))
    flows.extend(
        EdgeFlow(peers[int(i)], None, int(through[i]))
        for i in np.flatnonzero((ends == capacities.layers) & (through > 0))
    )
    holding = np.flatnonzero((starts <= layer) & (ends > layer))
    cut = MinCut(peers=tuple(peers[int(i)] for i in holding), layer=layer)
    return Routing(value, tuple(flows), cut)


def _hand_over(
    sources: list[tuple[int | None, int]],
    waiting: list[int],
    room: Ints,
    through: Ints,
    peers: tuple[PeerId, ...],
) -> Iterable[EdgeFlow]:
    turn = 0
    for source, amount in sources:
        left = amount
        while left > 0:
            target = waiting[turn]
            given = min(left, int(room[target]))
            if given > 0:
                room[target] -= given
                through[target] += given
                left -= given
                yield EdgeFlow(None if source is None else peers[source], peers[target], given)
            if room[target] == 0:
                turn += 1


def edge_capacities(
    snapshot: Snapshot, capacities: Capacities, layout: Layout
) -> tuple[Ints, Ints, Ints]:
    """Every legal edge between peers: sources, targets (rows) and capacities."""
    starts, ends = layout.starts, layout.ends
    legal = (
        (starts[None, :] > 0) & (starts[None, :] <= ends[:, None]) & (ends[:, None] < ends[None, :])
    )
    legal &= (ends > starts)[:, None] & (ends > starts)[None, :]
    width = link_widths(snapshot, capacities)
    legal &= width > 0
    sources, targets = np.nonzero(legal)
    return sources, targets, width[sources, targets]


def link_widths(snapshot: Snapshot, capacities: Capacities) -> Ints:
    """[peers, peers]: what each link carries, 0 where there is no way."""
    count = len(capacities.peers)
    default = snapshot.default_link
    size = snapshot.model.activation_bytes
    usual = 0 if default is None else link_mtokens_per_s(default.bandwidth_bytes_per_s, size)
    width = np.full((count, count), usual, dtype=np.int64)
    for (source, target), link in snapshot.links.items():
        i, j = capacities.index.get(source), capacities.index.get(target)
        if i is not None and j is not None:
            width[i, j] = link_mtokens_per_s(link.bandwidth_bytes_per_s, size)
    return width


def link_mtokens_per_s(bandwidth_bytes_per_s: float | None, activation_bytes: int) -> int:
    """What a link carries, thousandths of a token per second; `UNBOUND` where nothing is known."""
    if bandwidth_bytes_per_s is None:
        return UNBOUND
    if not bandwidth_bytes_per_s > 0:
        return 0
    return int(min(UNBOUND, bandwidth_bytes_per_s / max(1, activation_bytes) * MTOKENS))


def max_flow(snapshot: Snapshot, capacities: Capacities, layout: Layout) -> Routing:
    """Max flow and min cut over true links (Dinic's algorithm, scipy).

    Vertices: 2i for the way into peer i, 2i + 1 for the way out, then the clients' side and the
    sink. Capacities above 2^30 thousandths (a million tokens per second) are cut off there.
    """
    peers, layers = capacities.peers, capacities.layers
    count = len(peers)
    source, sink = 2 * count, 2 * count + 1
    # No arc carries more than the whole flow, and that is at most the least coverage. One above it
    # never fills, so what is cut off there, like the clients' side, is never in the min cut.
    most = min(UNBOUND, int(coverage(capacities, layout).min()) + 1)
    carried = np.minimum(capacities.of_layout(layout.starts, layout.ends), most)
    held = np.flatnonzero(carried > 0)
    first, last = held[layout.starts[held] == 0], held[layout.ends[held] == layers]
    edge_from, edge_to, width = edge_capacities(snapshot, capacities, layout)
    tails = np.concatenate([2 * held, np.full(first.size, source), 2 * last + 1, 2 * edge_from + 1])
    heads = np.concatenate([2 * held + 1, 2 * first, np.full(last.size, sink), 2 * edge_to])
    clients = np.full(first.size + last.size, most)
    limits = np.concatenate([carried[held], clients, np.minimum(width, most)])
    size = 2 * count + 2
    graph = csr_matrix((limits.astype(np.int32), (tails, heads)), shape=(size, size))
    found = maximum_flow(graph, source, sink, method="dinic")
    carried_flow = found.flow.tocoo()
    flows = _edges_of(carried_flow.row, carried_flow.col, carried_flow.data, count, peers)
    cut = _cut_of(graph, found.flow, count, peers)
    ordered = tuple(sorted(flows, key=lambda edge: (edge.source or "", edge.target or "")))
    return Routing(int(found.flow_value), ordered, cut)


def _edges_of(
    tails: Ints, heads: Ints, amounts: Ints, count: int, peers: tuple[PeerId, ...]
) -> list[EdgeFlow]:
    flows: list[EdgeFlow] = []
    for tail, head, amount in zip(tails, heads, amounts, strict=True):
        if amount <= 0 or (tail < 2 * count and tail % 2 == 0):
            continue  # reverse arcs, and the arcs inside peers
        flows.append(
            EdgeFlow(
                None if tail == 2 * count else peers[int(tail) // 2],
                None if head == 2 * count + 1 else peers[int(head) // 2],
                int(amount),
            )
        )
    return flows


def _cut_of(graph: csr_matrix, flow: csr_matrix, count: int, peers: tuple[PeerId, ...]) -> MinCut:
    residual = (graph - flow).tocsr()
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached = np.zeros(2 * count + 2, dtype=bool)
    reached[breadth_first_order(residual, 2 * count, return_predecessors=False)] = True
    arcs = graph.tocoo()
    crossing = reached[arcs.row] & ~reached[arcs.col] & (arcs.data > 0)
    inside: list[PeerId] = []
    links: list[tuple[PeerId | None, PeerId | None]] = []
    for tail, head in zip(arcs.row[crossing], arcs.col[crossing], strict=True):
        if tail < 2 * count and tail % 2 == 0:
            inside.append(peers[int(tail) // 2])
        else:
            links.append(
                (
                    None if tail == 2 * count else peers[int(tail) // 2],
                    None if head == 2 * count + 1 else peers[int(head) // 2],
                )
            )
    return MinCut(peers=tuple(sorted(inside)), links=tuple(sorted(links, key=str)))
