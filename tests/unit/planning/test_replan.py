"""Re-planning: repair at once, migration counted, hysteresis."""

from dataclasses import replace

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.planner import PlanOptions, plan
from helix_p2p.planning.replan import migration, repair_flows
from tests.unit.planning.swarms import random_snapshot

SNAPSHOT = random_snapshot(12, seed=2, layers=14)
LIVE = plan(SNAPSHOT, PlanOptions(steps=60, objective="flow"))


def without(snapshot: Snapshot, *lost: str) -> Snapshot:
    return replace(snapshot, peers=tuple(p for p in snapshot.peers if p.peer not in lost))


def test_repair_never_names_a_lost_peer() -> None:
    lost = LIVE.assignments[0].peer
    repaired = repair_flows(SNAPSHOT, LIVE, [lost])
    assert repaired.value_mtokens_per_s < LIVE.value_mtokens_per_s
    assert all(lost not in (edge.source, edge.target) for edge in repaired.flows)


def test_repair_of_nothing_keeps_the_value() -> None:
    assert repair_flows(SNAPSHOT, LIVE, []).value_mtokens_per_s == LIVE.value_mtokens_per_s


def test_losing_everyone_leaves_no_flow() -> None:
    repaired = repair_flows(SNAPSHOT, LIVE, [a.peer for a in LIVE.assignments])
    assert repaired.value_mtokens_per_s == 0
    assert repaired.flows == ()


def test_warm_start_of_an_unchanged_swarm_moves_nothing() -> None:
    again = plan(SNAPSHOT, PlanOptions(steps=30, objective="flow"), live=LIVE)
    moved = migration(SNAPSHOT, LIVE, again).fetched_layers
    assert moved <= 2
    assert again.value_mtokens_per_s >= LIVE.value_mtokens_per_s * 0.99


def test_replan_after_a_loss_covers_the_model_again() -> None:
    lost = LIVE.assignments[0].peer
    left = without(SNAPSHOT, lost)
    new = plan(left, PlanOptions(steps=60), live=LIVE)
    assert new.value_mtokens_per_s > 0
    assert new.range_of(lost) is None


def test_migration_counts_bytes_and_orders_harmless_moves_first() -> None:
    other = plan(SNAPSHOT, PlanOptions(steps=60, objective="flow", seed=9))
    moves = migration(SNAPSHOT, LIVE, other)
    assert moves.fetched_bytes == sum(move.fetched_bytes for move in moves.moves)
    assert all(move.fetch_s >= 0 for move in moves.moves)
    new_first = [move.old is None for move in moves.moves]
    assert new_first == sorted(new_first, reverse=True)
