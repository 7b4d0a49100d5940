"""The searches: reference figures, links, warm starts, regions, the solver that may fail."""

import time
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from helix_p2p.cluster.profile import PeerProfile
from helix_p2p.cluster.reference import reference_snapshot
from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.errors import SolverError
from helix_p2p.planning.bound import dual_prices, upper_bound
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.cover_milp import tighten
from helix_p2p.planning.coverage import layout_of, some_cover, value_of
from helix_p2p.planning.estimate import estimate
from helix_p2p.planning.highs import solve
from helix_p2p.planning.joining import value_at_join
from helix_p2p.planning.links import LinkSearch
from helix_p2p.planning.planner import PlanOptions, Progress, plan
from helix_p2p.planning.recreate import Search, fetched_layers, greedy, greedy_baseline
from helix_p2p.planning.regions import latencies, region_splits
from helix_p2p.planning.replan import migration
from helix_p2p.planning.sweep import search_by_sweeps, sweep
from helix_p2p.types import PeerId
from tests.unit.planning.swarms import make_model, make_speed, random_snapshot


def never() -> bool:
    return False


def test_single24_70b_is_proven_optimal() -> None:
    placement = plan(reference_snapshot("single24", "70b"), PlanOptions(objective="flow"))
    assert placement.value_mtokens_per_s == pytest.approx(2_045_641, abs=1)
    assert placement.gap == 0


def test_single24_30b_sweep_passes_1500() -> None:
    table = capacities_of(reference_snapshot("single24", "30b"))
    bound = upper_bound(table)
    assert bound == pytest.approx(1_563_662, abs=1)
    found = search_by_sweeps(table, 0, bound, 8, never)
    assert found.layout is not None
    assert value_of(table, found.layout) >= 1_500_000


def test_annealing_lifts_geo24_over_gurobi() -> None:
    snapshot = reference_snapshot("geo24", "70b")
    table = capacities_of(snapshot)
    bound = upper_bound(table)
    start = greedy_baseline(table, bound)
    search = LinkSearch(snapshot, table, start, bound, Random(1), 2500)
    before = search.value
    for _ in range(search.steps):
        search.step()
    assert before < 700_000
    assert search.value > 1_212_000
    assert search.flow_of(search.best) == search.value


def test_sweep_whose_beam_never_overflows_proves_impossibility() -> None:
    table = capacities_of(random_snapshot(3, seed=5, layers=8))
    bound = upper_bound(table)
    failed = sweep(table, bound * 2, 10_000, never)
    assert failed.layout is None
    assert failed.complete


def test_stopped_sweep_proves_nothing() -> None:
    table = capacities_of(random_snapshot(3, seed=5, layers=8))
    assert not sweep(table, 1, 10, lambda: True).complete


def test_priced_bound_is_never_looser() -> None:
    for seed in range(5):
        table = capacities_of(random_snapshot(10, seed=seed, layers=16))
        bound = upper_bound(table)
        assert upper_bound(table, dual_prices(table, bound)) <= bound


def test_search_only_improves_and_covers() -> None:
    snapshot = random_snapshot(20, seed=3, layers=20)
    table = capacities_of(snapshot)
    start = some_cover(snapshot.model, table)
    search = Search(table, start, upper_bound(table), Random(0))
    seen = [search.value]
    for _ in range(600):
        search.step()
        seen.append(search.value)
    assert seen == sorted(seen)
    assert value_of(table, search.best) == search.value > 1.3 * seen[0]


def test_move_penalty_keeps_more_in_place() -> None:
    snapshot = random_snapshot(30, seed=3, layers=20)
    table = capacities_of(snapshot)
    bound = upper_bound(table)
    held = greedy(table, bound)
    moved = []
    for penalty in (0.0, 0.5 * bound * table.layers / 200):
        search = Search(table, held, bound, Random(0), held=held, move_penalty=penalty)
        for _ in range(800):
            search.step()
        moved.append(int(fetched_layers(held, search.best.starts, search.best.ends).sum()))
    assert moved[1] < moved[0]


def test_churn_is_repaired_with_few_moves() -> None:
    everyone = random_snapshot(60, seed=8, layers=20)
    order = list(everyone.peers)
    Random(1).shuffle(order)
    before = replace(everyone, peers=tuple(sorted(order[6:], key=lambda p: p.peer)))
    after = replace(everyone, peers=tuple(sorted(order[:-6], key=lambda p: p.peer)))
    live = plan(before, PlanOptions(objective="flow", steps=1500))
    # Layers of this model are fetched in seconds; a short payback makes moving dear all the same.
    new = plan(after, PlanOptions(objective="flow", steps=1500, payback_s=60), live=live)
    fresh = plan(after, PlanOptions(objective="flow", steps=1500))
    moved, anew = (migration(after, live, one).fetched_layers for one in (new, fresh))
    assert new.value_mtokens_per_s >= 0.9 * new.bound_mtokens_per_s
    assert moved <= 0.3 * anew


def two_towns(each: int) -> Snapshot:
    model = make_model(12)
    peers, links = [], {}
    for number in range(2 * each):
        curve = tuple(100 / k for k in range(1, 13))
        peers.append(
            PeerProfile(PeerId(f"p{number:03}"), 10**10, curve, speed=make_speed(1 + number % 3))
        )
    for a in range(2 * each):
        for b in range(2 * each):
            if a != b:
                near = (a < each) == (b < each)
                links[PeerId(f"p{a:03}"), PeerId(f"p{b:03}")] = Link(0.005 if near else 0.1)
    return Snapshot(model, tuple(peers), links)


def test_regions_are_found_from_latencies() -> None:
    snapshot = two_towns(6)
    assert latencies(snapshot)[0, 11] == pytest.approx(0.1)
    two = region_splits(snapshot, capacities_of(snapshot))[0]
    assert sorted(tuple(rows) for rows in two) == [tuple(range(6)), tuple(range(6, 12))]


def test_regions_that_cannot_hold_the_model_are_no_regions() -> None:
    snapshot = two_towns(6)
    small = tuple(replace(p, memory_bytes=10**8, tokens_per_s=(100.0,)) for p in snapshot.peers)
    assert region_splits(replace(snapshot, peers=small), capacities_of(snapshot)) != []
    weak = replace(snapshot, peers=small)
    assert region_splits(weak, capacities_of(weak)) == []


def test_latency_objective_stays_within_towns() -> None:
    snapshot = two_towns(6)
    placement = plan(snapshot, PlanOptions(objective="latency", steps=150))
    far = [
        edge.mtokens_per_s
        for edge in placement.flows
        if edge.source is not None
        and edge.target is not None
        and snapshot.links[edge.source, edge.target].latency_s > 0.05
    ]
    assert sum(far) <= 0.02 * placement.value_mtokens_per_s


def test_estimate_falls_with_distance() -> None:
    near = two_towns(4)
    placement = plan(near, PlanOptions(objective="flow", steps=100))
    far = replace(near, links={pair: Link(0.5) for pair in near.links})
    here = estimate(near, placement.assignments, placement.flows)
    there = estimate(far, placement.assignments, placement.flows)
    if here.mean_stages > 1:
        assert there.light_token_s > here.light_token_s
        assert there.throughput_tokens_per_s <= here.throughput_tokens_per_s
    assert here.throughput_tokens_per_s <= placement.value_mtokens_per_s / 1000


def test_no_flow_serves_nothing() -> None:
    assert estimate(two_towns(2), (), ()).throughput_tokens_per_s == 0


class TestSolver:
    snapshot = random_snapshot(4, seed=2, layers=8)

    def test_highs_agrees_with_the_sweep(self) -> None:
        table = capacities_of(self.snapshot)
        bound = upper_bound(table)
        exact = search_by_sweeps(table, 0, bound, 10_000, never, accuracy=0)
        assert exact.layout is not None
        start = some_cover(self.snapshot.model, table)
        found = tighten(table, start, bound, solve, 20.0)
        best = value_of(table, exact.layout)
        assert found.layout is None or value_of(table, found.layout) <= best
        reached = value_of(table, start if found.layout is None else found.layout)
        assert reached >= best * 0.9999
        assert best <= found.bound <= best * 1.0002 + 2

    def test_dead_solver_falls_back_to_the_search_and_says_so(self) -> None:
        def dead(_problem: Any, _deadline_s: float, **_: Any) -> Any:
            raise SolverError("HiGHS died with status 1")

        said: list[Progress] = []
        snapshot = random_snapshot(6, seed=3, layers=14)
        options = PlanOptions(
            objective="flow", deadline_s=6.0, clock=time.monotonic, solver=dead, steps=50
        )
        placement = plan(snapshot, options, on_progress=said.append)
        assert placement.value_mtokens_per_s > 0
        if placement.gap > 0:
            assert any("the search's plan stands" in progress.phase for progress in said)


def test_layout_ignores_unknown_peers() -> None:
    snapshot = random_snapshot(4, seed=2, layers=8)
    table = capacities_of(snapshot)
    live = plan(snapshot, PlanOptions(steps=20))
    part = capacities_of(replace(snapshot, peers=snapshot.peers[1:]))
    assert layout_of(part, live.assignments).starts.size == 3
    assert np.array_equal(
        layout_of(table, live.assignments).ends[1:], layout_of(part, live.assignments).ends
    )


def test_a_newcomer_is_worth_what_it_adds_to_the_bound() -> None:
    snapshot = random_snapshot(8, seed=2, layers=8)
    newcomer = replace(snapshot.peers[0], peer=PeerId("zz"))
    weak = replace(newcomer, tokens_per_s=(), memory_bytes=0)
    assert value_at_join(snapshot, newcomer) > 0
    assert value_at_join(snapshot, weak) == 0
    assert value_at_join(replace(snapshot, peers=()), newcomer) >= 0
