"""A plan that requests wait for is made in a hurry."""

from dataclasses import replace

import pytest

import helix_p2p.node.membership as driver
from helix_p2p.planning.planner import plan
from tests.unit.planning.swarms import make_model, make_snapshot


@pytest.mark.parametrize("lost", [False, True])
def test_plan_is_made_in_a_hurry_only_when_a_layer_lost_its_last_holder(monkeypatch, lost):
    snapshot = make_snapshot(make_model(), [900_000_000] * 4, [1.0] * 4)
    live = plan(snapshot)
    if lost:
        left = tuple(p for p in snapshot.peers if p.peer != live.assignments[0].peer)
        snapshot = replace(snapshot, peers=left)
    asked = []
    monkeypatch.setattr(driver, "plan", lambda _snapshot, options, _live: asked.append(options))
    driver.solve(snapshot, live, lambda: False)
    assert (asked[0].deadline_s < driver.PLAN_DEADLINE_S) is lost
