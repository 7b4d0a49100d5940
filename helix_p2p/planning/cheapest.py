"""Among the flows of one value, the one with the least latency.

A minimum-cost flow over the peers' graph, the cost of an edge being its one-way latency: those
flows are the weights of interleaved weighted round robin. At full load the min cut leaves little
choice; at 80 to 90 % of it there is more, so `load` is the caller's.

Always: integers, conserved, within capacities, of exactly the asked value. With many edges only the
nearest targets of each peer are offered, besides the edges of a known flow, so there is always a
solution; where the solver fails, the known flow is the answer.
Source: linear programming on a network matrix has whole vertices (Hoffman and Kruskal 1956);
HiGHS's simplex through scipy, which ends in a vertex.
"""

import numpy as np
from scipy.sparse import coo_matrix

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import Capacities, Floats, Ints
from helix_p2p.planning.coverage import Layout
from helix_p2p.planning.flow import UNBOUND, Routing, edge_capacities, route_flow
from helix_p2p.planning.plan import EdgeFlow

MOST_EDGES = 12_000
"""More than this takes the program beyond about a second on one slow core."""

ASSUMED_LATENCY_S = 0.05


def cheapest_flow(
    snapshot: Snapshot,
    capacities: Capacities,
    layout: Layout,
    *,
    load: float = 1.0,
    known: Routing | None = None,
) -> Routing:
    """A flow of `load` times the max flow with the least mean latency of hops.

    Args:
        snapshot: With latencies.
        capacities: The table.
        layout: The placement.
        load: Share of the max flow, above 0, at most 1.
        known: The placement's max flow, where it was computed already.

    Returns:
        The flow; its cut stays that of the max flow.
    """
    if not 0 < load <= 1:
        raise ValueError("load is a share of the max flow, above 0 and at most 1")
    full = route_flow(snapshot, capacities, layout) if known is None else known
    value = max(1, int(full.value_mtokens_per_s * load)) if full.value_mtokens_per_s else 0
    if value == 0:
        return full
    sources, targets, width = edge_capacities(snapshot, capacities, layout)
    cost = _latencies(snapshot, capacities, sources, targets)
    chosen = _offered(capacities, full, sources, targets, cost)
    found = _solve(
        capacities, layout, value, sources[chosen], targets[chosen], width[chosen], cost[chosen]
    )
    if found is None:
        return full if load == 1 else _scaled(full, value)
    return Routing(value, found, full.min_cut)


def _latencies(snapshot: Snapshot, capacities: Capacities, sources: Ints, targets: Ints) -> Floats:
    usual = ASSUMED_LATENCY_S if snapshot.default_link is None else snapshot.default_link.latency_s
    if not snapshot.links:
        return np.full(sources.size, usual)
    peers, links = capacities.peers, snapshot.links
    return np.array(
        [
            link.latency_s if (link := links.get((peers[i], peers[j]))) is not None else usual
            for i, j in zip(sources.tolist(), targets.tolist(), strict=True)
        ]
    )


def _offered(
    capacities: Capacities, known: Routing, sources: Ints, targets: Ints, cost: Floats
) -> Ints:
    """Which edges the program may use."""
    if sources.size <= MOST_EDGES:
        return np.arange(sources.size)
    each = max(4, MOST_EDGES // max(1, len(capacities.peers)))
    order = np.lexsort((targets, cost, sources))
    begins = np.searchsorted(sources[order], sources[order], side="left")
    near = order[np.arange(order.size) - begins < each]
    at = {pair: n for n, pair in enumerate(zip(sources.tolist(), targets.tolist(), strict=True))}
    used = [
        at[capacities.index[edge.source], capacities.index[edge.target]]
        for edge in known.flows
        if edge.source is not None and edge.target is not None
    ]
    return np.union1d(near, np.array(used, dtype=np.int64))


def _solve(
    capacities: Capacities,
    layout: Layout,
    value: int,
    sources: Ints,
    targets: Ints,
    width: Ints,
    cost: Floats,
) -> tuple[EdgeFlow, ...] | None:
    """Variables: an edge each, then entering flow of first stages, then leaving flow of last."""
    from scipy.optimize import linprog  # late: half a second that only planning needs

    room = capacities.of_layout(layout.starts, layout.ends)
    first = np.flatnonzero((layout.starts == 0) & (room > 0))
    last = np.flatnonzero((layout.ends == capacities.layers) & (room > 0))
    edges, count = sources.size, len(capacities.peers)
    size = edges + first.size + last.size
    entering, leaving = edges + np.arange(first.size), edges + first.size + np.arange(last.size)
    into_rows = np.concatenate([targets, first])
    into_columns = np.concatenate([np.arange(edges), entering])
    out_rows = np.concatenate([sources, last])
    out_columns = np.concatenate([np.arange(edges), leaving])
    balance = coo_matrix(
        (
            np.concatenate([np.ones(into_rows.size), -np.ones(out_rows.size), np.ones(first.size)]),
            (
                np.concatenate([into_rows, out_rows, np.full(first.size, count)]),
                np.concatenate([into_columns, out_columns, entering]),
            ),
        ),
        shape=(count + 1, size),
    ).tocsr()
    through = coo_matrix((np.ones(into_rows.size), (into_rows, into_columns)), shape=(count, size))
    needed = np.zeros(count + 1)
    needed[count] = value
    most = np.concatenate([np.minimum(width, value), np.minimum(room[first], value), room[last]])
    # A little for every hop, so that of equal latencies the fewest stages win.
    price = np.concatenate([cost + 1e-4, np.zeros(first.size + last.size)])
    answer = linprog(
        price,
        A_ub=through.tocsr(),
        b_ub=np.minimum(room, UNBOUND).astype(np.float64),
        A_eq=balance,
        b_eq=needed,
        bounds=np.stack([np.zeros(size), most.astype(np.float64)], axis=1),
        method="highs-ds",
    )
    if answer.x is None:
        return None
    amount = np.round(answer.x).astype(np.int64)
    if (balance @ amount != needed).any() or (through @ amount > room).any():
        return None
    return _edges(capacities, amount, sources, targets, first, last)


def _edges(
    capacities: Capacities, amount: Ints, sources: Ints, targets: Ints, first: Ints, last: Ints
) -> tuple[EdgeFlow, ...]:
    peers, edges = capacities.peers, sources.size
    found = [
        EdgeFlow(peers[int(sources[n])], peers[int(targets[n])], int(amount[n]))
        for n in np.flatnonzero(amount[:edges] > 0)
    ]
    for offset, row in enumerate(first):
        if amount[edges + offset] > 0:
            found.append(EdgeFlow(None, peers[int(row)], int(amount[edges + offset])))
    for offset, row in enumerate(last):
        if amount[edges + first.size + offset] > 0:
            found.append(EdgeFlow(peers[int(row)], None, int(amount[edges + first.size + offset])))
    return tuple(sorted(found, key=lambda edge: (edge.source or "", edge.target or "")))


def _scaled(full: Routing, value: int) -> Routing:
    """Take whole paths out of a max flow until `value` is left."""
    left = {(edge.source, edge.target): edge.mtokens_per_s for edge in full.flows}
    surplus = full.value_mtokens_per_s - value
    while surplus > 0:
        at, path = None, []
        while True:
            step = next(pair for pair, amount in left.items() if pair[0] == at and amount > 0)
            path.append(step)
            at = step[1]
            if at is None:
                break
        taken = min(surplus, *(left[step] for step in path))
        for step in path:
            left[step] -= taken
        surplus -= taken
    flows = tuple(EdgeFlow(a, b, amount) for (a, b), amount in left.items() if amount > 0)
    return Routing(value, flows, full.min_cut)
