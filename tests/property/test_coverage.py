"""Coverage = max flow = min cut, and search = optimum, on random small swarms."""

from dataclasses import replace
from itertools import product
from random import Random

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_p2p.cluster.profile import PeerProfile
from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.planning.bound import dual_prices, upper_bound
from helix_p2p.planning.capacity import Capacities, Ints, capacities_of
from helix_p2p.planning.cheapest import cheapest_flow
from helix_p2p.planning.coverage import Layout, coverage, value_of
from helix_p2p.planning.flow import Routing, max_flow, sweep_flow
from helix_p2p.planning.links import flow_value_of
from helix_p2p.planning.sweep import search_by_sweeps
from helix_p2p.types import PeerId
from tests.unit.planning.swarms import make_model

LAYERS = 8


def random_snapshot(random: Random, count: int, layers: int = LAYERS) -> Snapshot:
    """Peers known by T(k) alone, a third with a thin uplink; ends cost memory."""
    model = replace(make_model(layers), embedding_bytes=30_000_000, head_bytes=60_000_000)
    peers = []
    for number in range(count):
        longest = random.randrange(1, layers + 3)
        speed = random.uniform(5, 50)
        curve = tuple(speed / k ** random.uniform(0.8, 1.2) for k in range(1, longest + 1))
        peers.append(
            PeerProfile(
                PeerId(f"p{number:02}"),
                (longest + 1) * model.layer_bytes,
                curve,
                uplink_bytes_per_s=random.choice([None, None, 5e3, 2e4]),
                downlink_bytes_per_s=random.choice([None, None, 3e4]),
            )
        )
    return Snapshot(model, tuple(peers), default_link=Link(0.01))


def random_layout(random: Random, table: Capacities) -> Layout:
    """Ranges that fit, some peers holding nothing."""
    count = len(table.peers)
    starts, ends = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for row in range(count):
        fitting = ranges_of(table, row)
        if fitting and random.random() < 0.9:
            starts[row], ends[row] = random.choice(fitting)
    return Layout(starts, ends)


def ranges_of(table: Capacities, row: int) -> list[tuple[int, int]]:
    probe = np.zeros(len(table.peers), dtype=np.int64)
    found = []
    for start in range(table.layers):
        for end in range(start + 1, table.layers + 1):
            starts, ends = probe.copy(), probe.copy()
            starts[row], ends[row] = start, end
            if table.of_layout(starts, ends)[row] > 0:
                found.append((start, end))
    return found


def oracle(snapshot: Snapshot, table: Capacities, layout: Layout) -> int:
    """Max flow by networkx over the full graph of partial inference, from its definition."""
    graph = nx.DiGraph()
    graph.add_nodes_from(["source", "sink"])
    carried = table.of_layout(layout.starts, layout.ends)
    held = [i for i in range(len(table.peers)) if layout.ends[i] > layout.starts[i]]
    for i in held:
        graph.add_edge(f"{i} in", f"{i} out", capacity=int(carried[i]))
        if layout.starts[i] == 0:
            graph.add_edge("source", f"{i} in")
        if layout.ends[i] == table.layers:
            graph.add_edge(f"{i} out", "sink")
        for j in held:
            link = snapshot.link(table.peers[i], table.peers[j])
            if link is None or not layout.starts[j] <= layout.ends[i] < layout.ends[j]:
                continue
            if link.bandwidth_bytes_per_s is None:
                graph.add_edge(f"{i} out", f"{j} in")
            else:
                width = int(link.bandwidth_bytes_per_s / snapshot.model.activation_bytes * 1000)
                graph.add_edge(f"{i} out", f"{j} in", capacity=width)
    return int(nx.maximum_flow_value(graph, "source", "sink"))


def assert_conserved(table: Capacities, layout: Layout, routing: Routing) -> None:
    into: dict[PeerId | None, int] = {}
    out: dict[PeerId | None, int] = {}
    carried = table.of_layout(layout.starts, layout.ends)
    for edge in routing.flows:
        assert edge.mtokens_per_s > 0
        into[edge.target] = into.get(edge.target, 0) + edge.mtokens_per_s
        out[edge.source] = out.get(edge.source, 0) + edge.mtokens_per_s
        if edge.source is not None and edge.target is not None:
            i, j = table.index[edge.source], table.index[edge.target]
            assert 0 < layout.starts[j] <= layout.ends[i] < layout.ends[j]
    assert into == out
    assert into.get(None, 0) == routing.value_mtokens_per_s
    for peer, amount in into.items():
        assert peer is None or amount <= carried[table.index[peer]]


def cut_size(snapshot: Snapshot, table: Capacities, layout: Layout, routing: Routing) -> int:
    carried = table.of_layout(layout.starts, layout.ends)
    size = sum(int(carried[table.index[peer]]) for peer in routing.min_cut.peers)
    for source, target in routing.min_cut.links:
        assert source is not None
        assert target is not None
        link = snapshot.link(source, target)
        assert link is not None
        assert link.bandwidth_bytes_per_s is not None
        size += int(link.bandwidth_bytes_per_s / snapshot.model.activation_bytes * 1000)
    return size


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, count=st.integers(1, 7))
def test_coverage_is_max_flow_is_min_cut(seed: int, count: int) -> None:
    random = Random(seed)
    snapshot = random_snapshot(random, count)
    table = capacities_of(snapshot)
    layout = random_layout(random, table)
    swept, flowed = sweep_flow(table, layout), max_flow(snapshot, table, layout)
    value = value_of(table, layout)
    assert value == oracle(snapshot, table, layout)
    assert value == swept.value_mtokens_per_s == flowed.value_mtokens_per_s
    assert value == flow_value_of(snapshot, table, layout)
    assert value == cut_size(snapshot, table, layout, swept)
    assert_conserved(table, layout, swept)
    assert_conserved(table, layout, flowed)


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, count=st.integers(2, 7))
def test_flow_over_binding_links_is_the_true_max_flow(seed: int, count: int) -> None:
    random = Random(seed)
    snapshot = random_snapshot(random, count)
    names = [profile.peer for profile in snapshot.peers]
    links = {
        (a, b): Link(random.uniform(0.001, 0.1), random.choice([None, 2e3, 1e4, 4e4]))
        for a, b in product(names, names)
        if a != b and random.random() < 0.8
    }
    snapshot = replace(snapshot, links=links, default_link=None)
    table = capacities_of(snapshot)
    layout = random_layout(random, table)
    flowed = max_flow(snapshot, table, layout)
    assert flowed.value_mtokens_per_s == oracle(snapshot, table, layout)
    assert flowed.value_mtokens_per_s <= value_of(table, layout)
    assert flow_value_of(snapshot, table, layout) == flowed.value_mtokens_per_s
    assert_conserved(table, layout, flowed)
    if flowed.value_mtokens_per_s:
        assert cut_size(snapshot, table, layout, flowed) == flowed.value_mtokens_per_s


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, load=st.sampled_from([0.5, 0.85, 1.0]))
def test_cheapest_flow_keeps_the_value_and_costs_no_more(seed: int, load: float) -> None:
    random = Random(seed)
    snapshot = random_snapshot(random, 7)
    names = [profile.peer for profile in snapshot.peers]
    links = {(a, b): Link(random.uniform(0.001, 0.1)) for a, b in product(names, names) if a != b}
    snapshot = replace(snapshot, links=links)
    table = capacities_of(snapshot)
    layout = random_layout(random, table)
    full = sweep_flow(table, layout)
    found = cheapest_flow(snapshot, table, layout, load=load)
    if full.value_mtokens_per_s == 0:
        return
    assert found.value_mtokens_per_s == max(1, int(full.value_mtokens_per_s * load))
    assert_conserved(table, layout, found)
    assert cost(snapshot, found) <= cost(snapshot, full) * 1.001 + 10


def cost(snapshot: Snapshot, routing: Routing) -> float:
    total = 0.0
    for edge in routing.flows:
        if edge.source is not None and edge.target is not None:
            link = snapshot.link(edge.source, edge.target)
            assert link is not None
            total += edge.mtokens_per_s * (link.latency_s + 1e-4)
    return total


def best_by_force(table: Capacities) -> int:
    """The optimum over every placement of very few peers."""
    options = [[(0, 0), *ranges_of(table, row)] for row in range(len(table.peers))]
    best = 0
    for choice in product(*options):
        pairs = np.array(choice, dtype=np.int64)
        best = max(best, int(coverage(table, Layout(pairs[:, 0], pairs[:, 1])).min()))
    return best


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, count=st.integers(1, 3))
def test_sweep_finds_and_proves_the_optimum(seed: int, count: int) -> None:
    random = Random(seed)
    table = capacities_of(random_snapshot(random, count, layers=6))
    best = best_by_force(table)
    bound = upper_bound(table)
    assert best <= bound
    assert best <= upper_bound(table, dual_prices(table, bound))
    found = search_by_sweeps(table, 0, bound, 10_000, lambda: False, accuracy=0)
    reached = 0 if found.layout is None else value_of(table, found.layout)
    assert reached == best
    assert best <= found.bound <= best + 1


@pytest.mark.parametrize("prices", [(1,) * 5, (0,) * 8, (-1,) + (1,) * 7])
def test_senseless_prices_prove_nothing(prices: tuple[int, ...]) -> None:
    table = capacities_of(random_snapshot(Random(1), 3))
    with pytest.raises(ValueError, match="price"):
        upper_bound(table, prices)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, prices=st.lists(st.integers(0, 100), min_size=LAYERS, max_size=LAYERS))
def test_any_prices_bound_every_layout(seed: int, prices: list[int]) -> None:
    if sum(prices) == 0:
        return
    random = Random(seed)
    table = capacities_of(random_snapshot(random, 5))
    layout = random_layout(random, table)
    assert value_of(table, layout) <= upper_bound(table, prices)


def test_empty_ranges_carry_nothing() -> None:
    table = capacities_of(random_snapshot(Random(2), 3))
    nothing: Ints = np.zeros(3, dtype=np.int64)
    assert value_of(table, Layout(nothing, nothing)) == 0
