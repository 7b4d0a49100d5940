"""What is served: the floor of plans, the estimate against published figures, moves."""

from random import Random

import pytest

from helix_p2p.cluster.reference import published_placements, reference_snapshot
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.coverage import layout_of
from helix_p2p.planning.estimate import Estimate, estimate
from helix_p2p.planning.floor import PLANNERS_MARGIN, Floor, floor_of
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.hubs import hub_layouts
from helix_p2p.planning.moves import Moves
from helix_p2p.planning.plan import Assignment
from helix_p2p.planning.planner import PlanOptions, plan


def published(cluster: str, name: str) -> Estimate:
    snapshot = reference_snapshot(cluster, "70b")
    table = capacities_of(snapshot)
    ranges = published_placements(cluster, "70b")[name].ranges
    layout = layout_of(table, (Assignment(p, r) for p, r in sorted(ranges.items())))
    routing = route_flow(snapshot, table, layout)
    return estimate(snapshot, layout.assignments(table), routing.flows)


@pytest.mark.parametrize("cluster", ["single24", "geo24"])
def test_the_estimate_orders_the_published_placements_as_they_served(cluster):
    served = {
        name: published(cluster, name).throughput_tokens_per_s
        for name in ("ilp", "petals", "swarm")
    }
    assert served["ilp"] > served["petals"] > served["swarm"] - 5.0


def test_one_crossing_between_regions_serves_more_than_the_published_placement():
    snapshot = reference_snapshot("geo24", "70b")
    table = capacities_of(snapshot)
    found = []
    for layout in hub_layouts(snapshot, table):
        routing = route_flow(snapshot, table, layout)
        assert routing.value_mtokens_per_s > 0
        one = estimate(snapshot, layout.assignments(table), routing.flows)
        found.append(one.throughput_tokens_per_s)
    assert max(found) > 1.2 * published("geo24", "ilp").throughput_tokens_per_s
    assert hub_layouts(reference_snapshot("single24", "70b"), table) == []


def test_the_estimate_is_near_the_replayed_cycle_of_deep_and_shallow_placements():
    # Replays of these three take 1.0, 1.6 and 3.1 s per token (docs/planning.md).
    for cluster, name, token_s in (
        ("single24", "petals", 1.01),
        ("single24", "swarm", 1.63),
        ("geo24", "petals", 3.07),
    ):
        assert published(cluster, name).token_s == pytest.approx(token_s, rel=0.3)


def test_a_plan_below_the_greedy_flow_may_be_adopted_if_it_serves_more():
    floor = Floor(flow_mtokens_per_s=1000, served_tokens_per_s=100.0)
    assert floor.holds(900, 0.0)
    assert not floor.holds(899, 94.0)
    assert floor.holds(500, 95.0)
    assert not floor.holds(249, 1000.0)
    assert not floor.holds(900, 0.0, PLANNERS_MARGIN), "a planner asks for more than a validator"
    assert not Floor(0, 0.0).holds(0, 1.0)


def test_plans_for_throughput_serve_more_than_the_largest_flow_does():
    snapshot = reference_snapshot("single24", "70b")
    most_flow = plan(snapshot, PlanOptions(objective="flow", steps=20))
    found = plan(snapshot, PlanOptions(steps=150))
    by_flow, by_service = (
        estimate(snapshot, one.assignments, one.flows) for one in (most_flow, found)
    )
    assert by_service.throughput_tokens_per_s > by_flow.throughput_tokens_per_s
    assert by_service.token_s < by_flow.token_s
    assert found.bound_mtokens_per_s == most_flow.bound_mtokens_per_s
    floor = floor_of(snapshot, capacities_of(snapshot))
    assert floor.holds(found.value_mtokens_per_s, by_service.throughput_tokens_per_s)
    assert found == plan(snapshot, PlanOptions(steps=150))


def test_every_change_of_a_layout_fits_into_its_peers():
    snapshot = reference_snapshot("geo24", "70b")
    table = capacities_of(snapshot)
    ranges = published_placements("geo24", "70b")["ilp"].ranges
    layout = layout_of(table, (Assignment(p, r) for p, r in sorted(ranges.items())))
    moves = Moves(table, upper_bound(table), Random(5))
    for change in (moves.changed, moves.reshaped):
        for _ in range(400):
            made = change(layout)
            held = made.ends > made.starts
            assert (table.of_layout(made.starts, made.ends)[held] > 0).all()
