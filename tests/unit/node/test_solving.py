"""What the node's planner does with its jobs: repairs at once, searches with a deadline."""

import time
from dataclasses import replace

from helix_p2p.membership.effects import StartPlanning
from helix_p2p.node.membership import PLAN_DEADLINE_S, solve
from helix_p2p.planning.planner import PlanOptions, plan
from helix_p2p.planning.work import Work
from helix_p2p.types import Epoch
from tests.unit.planning.swarms import make_model, make_snapshot

SNAPSHOT = make_snapshot(make_model(), [900_000_000] * 4, [1.0] * 4)
LIVE = plan(SNAPSHOT, PlanOptions(steps=30))
LEFT = replace(
    SNAPSHOT, peers=tuple(p for p in SNAPSHOT.peers if p.peer != LIVE.assignments[0].peer)
)


def job(work: Work) -> StartPlanning:
    return StartPlanning(1, LEFT, LIVE, Epoch(1), work)


def test_a_loss_is_repaired_without_using_up_the_deadline() -> None:
    began_s = time.thread_time()
    made = solve(job(Work.REPAIR), lambda: False)
    assert time.thread_time() - began_s < PLAN_DEADLINE_S / 2
    assert made.value_mtokens_per_s > 0


def test_without_a_plan_in_force_a_repair_is_a_search() -> None:
    made = solve(replace(job(Work.REPAIR), live=None), lambda: False)
    assert made.solver != "repair"
    assert made.value_mtokens_per_s > 0


def test_an_improvement_of_a_repair_serves_no_less() -> None:
    repaired = solve(job(Work.REPAIR), lambda: False)
    better = solve(replace(job(Work.IMPROVE), live=repaired), lambda: False)
    assert better.value_mtokens_per_s > 0
    assert {a.peer for a in better.assignments} <= {p.peer for p in LEFT.peers}
