"""Helix's placement MILP (ASPLOS 2025, §4.4), written down exactly, over PuLP.

For each peer i: s_i integer, the first layer; b_ik binary, it holds k layers; e_i = s_i + Σ k·b_ik.
For each way u → v: f_uv ≥ 0, the flow; d_uv binary, the way joins layer to layer. Then
Σ_k b_ik = 1; e_i ≤ L; Σ f_in = Σ f_out ≤ Σ_k T_i(k)·b_ik; clients → i needs s_i ≤ L(1 − d);
i → sink needs L·d ≤ e_i; i → j needs e_i = s_j, or with partial inference s_j ≤ e_i < e_j;
f_uv ≤ d_uv · what the link carries. The flow out of the clients' side is maximised.

Two things are said differently and mean the same: the artifact builds d of partial inference from
two helper binaries, here both halves bind d directly; and flow is in tokens/s of this model instead
of bytes. Every peer must hold a layer, as in the paper.

Always: T_i(k) is the lower of the capacities at the places where k layers can lie, so that the MILP
never promises what a peer at an end cannot hold.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pulp

from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.planning.capacity import FIRST, LAST, MIDDLE, MTOKENS, WHOLE, Capacities
from helix_p2p.planning.coverage import Layout
from helix_p2p.planning.flow import link_mtokens_per_s
from helix_p2p.types import PeerId

Way = tuple[int, int]
SOURCE, SINK = -1, -2
TOKEN_BYTES = 2
"""What goes from and to clients, as in the artifact."""


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways the MILP may use, by rows; limits in tokens/s.

    Attributes:
        between: Peer to peer.
        entry: Clients to peer.
        exit: Peer to sink.
    """

    between: Mapping[Way, float]
    entry: Mapping[int, float]
    exit: Mapping[int, float]


@dataclass(frozen=True)
class Milp:
    """The problem and what is needed to read its solution.

    Attributes:
        problem: A `pulp.LpProblem`.
        rates: [peers][k] tokens/s with k layers; index 0 is unused.
        ways: As built in.
        partial: Whether partial inference is allowed.
        layers: L.
    """

    problem: Any
    rates: tuple[tuple[float, ...], ...]
    ways: Ways
    partial: bool
    layers: int

    def layout(self, values: Mapping[str, float], rows: Iterable[int], count: int) -> Layout:
        """The ranges in a solution; `rows` are the peers' rows among `count`."""
        starts, ends = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        for n, row in enumerate(rows):
            chosen = [values[f"b_{n}_{k}"] for k in range(1, len(self.rates[n]))]
            held = 1 + chosen.index(max(chosen))
            starts[row] = round(values[f"s_{n}"])
            ends[row] = starts[row] + held
        return Layout(starts, ends)


def rates_of(capacities: Capacities, row: int) -> tuple[float, ...]:
    """T(k) in tokens/s for k = 0..K, the lower of the places where k layers can lie."""
    layers, table = capacities.layers, capacities.mtokens_per_s[row]
    rates = [0.0]
    for k in range(1, layers + 1):
        places = [WHOLE] if k == layers else [FIRST, LAST]
        places += [MIDDLE] if k <= layers - 2 else []
        least = min(int(table[place, k]) for place in places)
        if least <= 0:
            break
        rates.append(least / MTOKENS)
    return tuple(rates)


def ways_of(
    snapshot: Snapshot,
    rows: list[int],
    *,
    keep: int | None = None,
    also: Collection[Way] = (),
    clients: Mapping[PeerId, tuple[Link, Link]] | None = None,
) -> Ways:
    """The ways between these peers.

    Args:
        snapshot: Peers and links.
        rows: Which peers, in the order of the MILP.
        keep: Prune to this many fastest ways of each peer, and of the clients' side and the sink
            where their links are known.
        also: Ways between peers that stay nevertheless, so that a start keeps its links.
        clients: The coordinator's links, where they are known.
    """
    peers = [snapshot.peers[row].peer for row in rows]
    activation = snapshot.model.activation_bytes
    between: dict[Way, float] = {}
    latency_s: dict[Way, float] = {}
    for i, source in enumerate(peers):
        for j, target in enumerate(peers):
            link = snapshot.link(source, target) if i != j else None
            if link is not None:
                limit = link_mtokens_per_s(link.bandwidth_bytes_per_s, activation) / MTOKENS
                between[i, j], latency_s[i, j] = limit, link.latency_s
    entry = dict.fromkeys(range(len(peers)), math.inf)
    leave = dict.fromkeys(range(len(peers)), math.inf)
    for i, peer in enumerate(peers):
        if clients is not None and peer in clients:
            into, back = clients[peer]
            entry[i] = (into.bandwidth_bytes_per_s or math.inf) / TOKEN_BYTES
            leave[i] = (back.bandwidth_bytes_per_s or math.inf) / TOKEN_BYTES
    if keep is None:
        return Ways(between, entry, leave)
    kept = _fastest_between(between, latency_s, keep)
    kept |= {way: between[way] for way in also}
    if clients is None:
        return Ways(kept, entry, leave)
    return Ways(kept, _fastest(entry, keep), _fastest(leave, keep))


def _fastest(ways: Mapping[int, float], keep: int) -> dict[int, float]:
    ranked = sorted(ways, key=lambda i: (-ways[i], i))
    return {i: ways[i] for i in ranked[:keep]}


def _fastest_between(
    between: Mapping[Way, float], latency_s: Mapping[Way, float], keep: int
) -> dict[Way, float]:
    """Each peer's fastest ways, of equals the shortest; a way stays if either end keeps it."""
    kept: set[Way] = set()
    for i in sorted({source for source, _ in between}):
        mine = sorted((w for w in between if w[0] == i), key=lambda w: (-between[w], latency_s[w]))
        for source, target in mine[:keep]:
            kept |= {(source, target), (target, source)}
    return {way: between[way] for way in sorted(kept) if way in between}


def build(capacities: Capacities, rows: list[int], ways: Ways, *, partial: bool) -> Milp:
    """Write the MILP down.

    Args:
        capacities: T'_i(k).
        rows: The peers that take part; each can hold a layer.
        ways: Which may be used.
        partial: Allow stages that begin inside a peer's range.
    """
    layers = capacities.layers
    rates = tuple(rates_of(capacities, row) for row in rows)
    problem = pulp.LpProblem("helix", pulp.LpMaximize)
    start = [problem.add_variable(f"s_{i}", 0, layers - 1, "Integer") for i in range(len(rows))]
    held = [
        [problem.add_variable(f"b_{i}_{k}", cat="Binary") for k in range(1, len(rate))]
        for i, rate in enumerate(rates)
    ]
    end = [
        start[i] + pulp.lpSum(k * b for k, b in enumerate(bs, start=1)) for i, bs in enumerate(held)
    ]
    flow: dict[Way, Any] = {}
    for way, limit in _all_ways(ways):
        flow[way] = _way(problem, way, limit, max(max(rate) for rate in rates))
    problem += pulp.lpSum(f for (source, _), (f, _) in flow.items() if source == SOURCE)
    for i, bs in enumerate(held):
        problem += pulp.lpSum(bs) == 1
        problem += end[i] <= layers
        into = pulp.lpSum(f for (_, target), (f, _) in flow.items() if target == i)
        out = pulp.lpSum(f for (source, _), (f, _) in flow.items() if source == i)
        problem += into == out
        problem += into <= pulp.lpSum(rates[i][k] * b for k, b in enumerate(bs, start=1))
    for (source, target), (_, valid) in flow.items():
        if source == SOURCE:
            problem += start[target] <= layers * (1 - valid)
        elif target == SINK:
            problem += layers * valid <= end[source]
        elif partial:
            problem += start[target] <= end[source] + layers * (1 - valid)
            problem += end[source] + 1 <= end[target] + (layers + 1) * (1 - valid)
        else:
            problem += end[source] <= start[target] + layers * (1 - valid)
            problem += start[target] <= end[source] + layers * (1 - valid)
    return Milp(problem, rates, ways, partial, layers)


def _all_ways(ways: Ways) -> list[tuple[Way, float]]:
    return [
        *(((SOURCE, i), limit) for i, limit in ways.entry.items()),
        *(((i, SINK), limit) for i, limit in ways.exit.items()),
        *ways.between.items(),
    ]


def _way(problem: Any, way: Way, limit: float, most: float) -> tuple[Any, Any]:
    """Flow and validity of one way; nothing carries more than the fastest peer."""
    flow = problem.add_variable(f"f_{_name(way)}", 0)
    valid = problem.add_variable(f"d_{_name(way)}", cat="Binary")
    problem += flow <= min(limit, most) * valid
    return flow, valid


def _name(way: Way) -> str:
    return "_".join("in" if end == SOURCE else "out" if end == SINK else str(end) for end in way)


@dataclass(frozen=True, slots=True)
class Start:
    """A feasible solution.

    Attributes:
        objective: Tokens/s.
        values: Of all variables, by name.
        used: Ways between peers that carry flow.
    """

    objective: float
    values: Mapping[str, float]
    used: frozenset[Way]


def start_values(milp: Milp, starts: list[int], ends: list[int]) -> Start | None:
    """A feasible solution from ranges, cut to what fits; None where they are none.

    Args:
        milp: The problem; only its rates, ways and kind matter.
        starts: First layer of each peer of the MILP.
        ends: Layer after its last.
    """
    values: dict[str, float] = {}
    graph = nx.DiGraph()
    graph.add_nodes_from(("in", "out"))
    if any(end > milp.layers for end in ends):
        return None
    # Every peer must hold a layer, and no more than its rates allow.
    ends = [
        begin + min(max(1, end - begin), len(rate) - 1)
        for begin, end, rate in zip(starts, ends, milp.rates, strict=True)
    ]
    for i, (rate, begin, end) in enumerate(zip(milp.rates, starts, ends, strict=True)):
        values[f"s_{i}"] = begin
        values |= {f"b_{i}_{k}": float(k == end - begin) for k in range(1, len(rate))}
        graph.add_edge((i, 0), (i, 1), capacity=int(rate[end - begin] * MTOKENS))
    for way, limit in _all_ways(milp.ways):
        values[f"f_{_name(way)}"] = values[f"d_{_name(way)}"] = 0.0
        if _joins(milp, way, starts, ends):
            graph.add_edge(*_ends_in_graph(way), capacity=int(min(limit, 1e9) * MTOKENS))
    value, flows = nx.maximum_flow(graph, "in", "out")
    used: set[Way] = set()
    for way, _ in _all_ways(milp.ways):
        tail, head = _ends_in_graph(way)
        amount = flows.get(tail, {}).get(head, 0)
        if amount > 0:
            values[f"f_{_name(way)}"], values[f"d_{_name(way)}"] = amount / MTOKENS, 1.0
            used |= {way} & milp.ways.between.keys()
    return Start(value / MTOKENS, values, frozenset(used))


def _joins(milp: Milp, way: Way, starts: list[int], ends: list[int]) -> bool:
    source, target = way
    if source == SOURCE:
        return starts[target] == 0
    if target == SINK:
        return ends[source] == milp.layers
    if milp.partial:
        return starts[target] <= ends[source] < ends[target]
    return starts[target] == ends[source]


def _ends_in_graph(way: Way) -> tuple[Any, Any]:
    source, target = way
    return ("in" if source == SOURCE else (source, 1), "out" if target == SINK else (target, 0))


def snapped(milp: Milp, starts: list[int], ends: list[int]) -> tuple[list[int], list[int]]:
    """Cut ranges at the starts and ends of others where that makes them join exactly.

    Without partial inference a heuristic's overlapping ranges join nowhere. Even stages always do.
    """
    marks = sorted({0, milp.layers, *starts})
    cut = []
    for begin, end in zip(starts, ends, strict=True):
        inside = [b for a, b in pairwise(marks) if begin < b <= end]
        cut.append(inside[-1] if inside else end)
    return starts, cut
