"""The facade: tiny and small swarms, errors, progress, determinism."""

import pytest

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import Cancelled, ConfigError, SwarmTooSmall
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import Objective, PlanOptions, Progress, plan
from tests.unit.planning.swarms import make_model, make_snapshot, random_snapshot

WHOLE_BYTES = 24 * 50_000_000 + 2 * 65_000_000


def assert_sound(snapshot: Snapshot, placement: Placement) -> None:
    table = capacities_of(snapshot)
    covered = [0] * snapshot.model.layers
    for assignment in placement.assignments:
        carried = table.of(table.index[assignment.peer], assignment.layers)
        assert carried > 0
        for layer in assignment.layers:
            covered[layer] += carried
    assert min(covered) == placement.value_mtokens_per_s
    into: dict[str | None, int] = {}
    out: dict[str | None, int] = {}
    for edge in placement.flows:
        into[edge.target] = into.get(edge.target, 0) + edge.mtokens_per_s
        out[edge.source] = out.get(edge.source, 0) + edge.mtokens_per_s
    assert into == out
    assert out[None] == placement.value_mtokens_per_s <= placement.bound_mtokens_per_s


def test_one_peer_that_fits_the_model_serves_all_of_it() -> None:
    snapshot = make_snapshot(make_model(), [WHOLE_BYTES * 2], [1.0])
    placement = plan(snapshot)
    assert [str(a.layers) for a in placement.assignments] == ["[0, 24)"]
    assert placement.gap == 0
    assert_sound(snapshot, placement)


def test_two_peers_that_only_fit_together_split_the_model() -> None:
    snapshot = make_snapshot(make_model(), [WHOLE_BYTES * 6 // 10] * 2, [1.0, 1.0])
    placement = plan(snapshot)
    assert len(placement.assignments) == 2
    assert_sound(snapshot, placement)


def test_whole_peers_are_replicas_when_latency_is_the_objective() -> None:
    snapshot = make_snapshot(make_model(), [WHOLE_BYTES * 9] * 3, [1.0, 1.0, 1.0])
    placement = plan(snapshot, PlanOptions(objective="latency"))
    assert {str(a.layers) for a in placement.assignments} == {"[0, 24)"}


@pytest.mark.parametrize("count", [3, 4, 5, 6, 12])
@pytest.mark.parametrize("objective", list(Objective))
def test_small_swarms_get_sound_plans(count: int, objective: str) -> None:
    snapshot = random_snapshot(count, seed=count, layers=14)
    assert_sound(snapshot, plan(snapshot, PlanOptions(objective=objective, steps=60)))


def test_swarm_that_cannot_hold_the_model_says_how_much_is_missing() -> None:
    snapshot = make_snapshot(make_model(), [200_000_000] * 2 + [10_000_000], [1.0] * 3)
    with pytest.raises(SwarmTooSmall) as caught:
        plan(snapshot)
    assert caught.value.usable_peers == 2
    assert caught.value.total_peers == 3
    assert 800_000_000 < caught.value.missing_bytes < WHOLE_BYTES


def test_an_empty_swarm_is_too_small() -> None:
    with pytest.raises(SwarmTooSmall):
        plan(Snapshot(make_model(), ()))


def test_same_seed_gives_the_same_plan() -> None:
    snapshot = random_snapshot(10, seed=3)
    options = PlanOptions(seed=5, steps=80)
    assert plan(snapshot, options) == plan(snapshot, options)


def test_deadline_that_is_over_still_gives_a_sound_plan() -> None:
    snapshot = random_snapshot(10, seed=4)
    ticks = iter(range(100_000))
    options = PlanOptions(deadline_s=0.0, clock=lambda: float(next(ticks)))
    assert_sound(snapshot, plan(snapshot, options))


def test_progress_names_incumbent_and_bound() -> None:
    snapshot = random_snapshot(10, seed=4)
    seen: list[Progress] = []
    plan(snapshot, PlanOptions(steps=40), on_progress=seen.append)
    assert seen
    assert all(0 < p.bound_mtokens_per_s <= upper_bound(capacities_of(snapshot)) for p in seen)
    assert all(0 <= p.gap <= 1 for p in seen)


def test_cancelling_stops_the_search() -> None:
    with pytest.raises(Cancelled):
        plan(random_snapshot(10, seed=4), PlanOptions(cancelled=lambda: True))


def test_unknown_objective_is_refused() -> None:
    with pytest.raises(ConfigError):
        PlanOptions(objective="speed")
