"""Towards a better plan: only for a clear gain, few at a time, no layer without a holder."""

from dataclasses import replace

import pytest

from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.coverage import layout_of, value_of
from helix_p2p.planning.improve import PATIENCE_FOR_ALL, improve, meanwhile, stage
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import plan
from helix_p2p.planning.repair import repair
from helix_p2p.planning.replan import migration, repair_flows
from helix_p2p.planning.work import Work, carry_out
from helix_p2p.types import PeerId
from tests.unit.planning.swarms import random_snapshot
from tests.unit.planning.test_repair import FLOW, live, swarm_of

SHORT = replace(FLOW, steps=60)


def fetching(before: Placement, after: Placement, snapshot: object) -> list[PeerId]:
    moves = migration(snapshot, before, after).moves  # type: ignore[arg-type]
    return [move.peer for move in moves if move.old is not None and move.fetched_layers]


@pytest.mark.parametrize("seed", range(4))
def test_stages_lead_to_a_better_plan_and_come_to_an_end(seed: int) -> None:
    snapshot = random_snapshot(24, seed)
    gone = [snapshot.peers[number].peer for number in (3, 11)]
    full = plan(snapshot, SHORT)
    left = replace(snapshot, peers=tuple(p for p in snapshot.peers if p.peer not in gone))
    at = repair(left, full, FLOW)
    goal = plan(left, replace(FLOW, steps=300), at)
    table, values = capacities_of(left), [at.value_mtokens_per_s]
    for _ in range(40):
        after = stage(left, at, goal, FLOW)
        if after is None:
            break
        old, new = layout_of(table, at.assignments), layout_of(table, after.assignments)
        if value_of(table, meanwhile(table, old, new)) == 0:
            waited = PATIENCE_FOR_ALL * migration(left, at, after).seconds / FLOW.payback_s
            gained = after.value_mtokens_per_s / at.value_mtokens_per_s - 1
            assert gained > waited, "a hole has to pay"
        at = after
        values.append(at.value_mtokens_per_s)
    else:
        raise AssertionError("the stages do not end")
    assert values == sorted(values)
    assert values[-1] >= 0.94 * goal.value_mtokens_per_s


def test_few_move_at_a_time() -> None:
    snapshot = random_snapshot(40, 7)
    start = plan(snapshot, replace(FLOW, steps=10))
    goal = plan(snapshot, replace(FLOW, steps=400, seed=3))
    after = stage(snapshot, start, goal, FLOW)
    if after is not None:
        assert len(fetching(start, after, snapshot)) <= 4


def test_what_gains_little_changes_nothing() -> None:
    snapshot = random_snapshot(12, 2)
    best = plan(snapshot, replace(FLOW, steps=200))
    assert stage(snapshot, best, plan(snapshot, replace(FLOW, steps=200, seed=4)), FLOW) is None
    assert improve(snapshot, best, SHORT).assignments == best.assignments


TIGHT = {"a": (0, 12), "b": (12, 24)}


def test_a_chain_without_replicas_gets_a_newcomer_first_and_shifts_then() -> None:
    """All of a's and b's layers have one holder; c may hold as many."""
    snapshot = swarm_of(dict.fromkeys("abc", (14, 1.0, 10.0)))
    at, steps = live(snapshot, TIGHT), []
    for _ in range(6):
        after = improve(snapshot, at, replace(FLOW, steps=100))
        if after.assignments == at.assignments:
            break
        steps.append(fetching(at, after, snapshot))
        at = after
    assert at.range_of(PeerId("c")) is not None
    assert at.value_mtokens_per_s > 1.3 * live(snapshot, TIGHT).value_mtokens_per_s
    assert all(len(movers) <= 2 for movers in steps)


def test_meanwhile_counts_what_is_kept_and_who_has_room_for_both() -> None:
    """a has no room for more than it is to hold, b has."""
    snapshot = swarm_of({"a": (4, 1, 10), "b": (20, 1, 10)})
    table = capacities_of(snapshot)
    before = layout_of(table, live(snapshot, {"a": (4, 10), "b": (9, 24)}).assignments)
    after = layout_of(table, live(snapshot, {"a": (8, 14), "b": (6, 20)}).assignments)
    during = meanwhile(table, before, after)
    assert table.longest[0].max() < 10
    assert list(zip(during.starts.tolist(), during.ends.tolist(), strict=True)) == [
        (8, 10),
        (9, 24),
    ]


def test_each_work_does_its_own_and_without_a_live_plan_all_is_searched() -> None:
    snapshot = random_snapshot(10, 5)
    first = carry_out(Work.REPAIR, snapshot, None, SHORT)
    assert first == plan(snapshot, SHORT)
    left = replace(snapshot, peers=snapshot.peers[1:])
    assert carry_out(Work.REPAIR, left, first, FLOW) == repair(left, first, FLOW)
    better = carry_out(Work.IMPROVE, left, first, SHORT)
    held = repair_flows(left, first, [snapshot.peers[0].peer])
    assert better.value_mtokens_per_s >= held.value_mtokens_per_s
