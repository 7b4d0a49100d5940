"""Baselines against what the Helix artifact published, to its last digit where it gives one."""

import pytest

from helix_p2p.cluster.reference import published_placements, reference_snapshot
from helix_p2p.planning.baselines import BASELINES
from helix_p2p.planning.baselines.petals import petals_layout
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.coverage import layout_of
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.plan import Assignment
from helix_p2p.planning.planner import PlanOptions

CASES = [(cluster, model) for cluster in ("single24", "geo24") for model in ("30b", "70b")]


@pytest.mark.parametrize(("cluster", "model"), CASES)
def test_published_placements_have_their_published_max_flow(cluster: str, model: str) -> None:
    snapshot = reference_snapshot(cluster, model)
    capacities = capacities_of(snapshot)
    for published in published_placements(cluster, model).values():
        held = [Assignment(peer, layers) for peer, layers in published.ranges.items()]
        routing = route_flow(snapshot, capacities, layout_of(capacities, held))
        value = routing.value_mtokens_per_s / 1000
        assert value == pytest.approx(published.max_flow_tokens_per_s, abs=0.01), published.case


@pytest.mark.parametrize(("cluster", "model"), CASES)
def test_petals_in_the_published_order_of_joining_is_the_published_placement(
    cluster: str, model: str
) -> None:
    published = published_placements(cluster, model)["petals"]
    snapshot = reference_snapshot(cluster, model)
    capacities = capacities_of(snapshot)
    layout = petals_layout(snapshot, capacities, published.join_order)
    assert {a.peer: a.layers for a in layout.assignments(capacities)} == published.ranges


@pytest.mark.parametrize(("cluster", "model"), CASES)
def test_even_split_is_the_published_placement(cluster: str, model: str) -> None:
    published = published_placements(cluster, model)["swarm"]
    snapshot = reference_snapshot(cluster, model)
    placement = BASELINES["swarm"](snapshot, PlanOptions(), None, None)
    assert {a.peer: a.layers for a in placement.assignments} == published.ranges
    value = placement.value_mtokens_per_s / 1000
    assert value == pytest.approx(published.max_flow_tokens_per_s, abs=0.01)


@pytest.mark.parametrize("cluster", ["single24", "geo24"])
def test_petals_by_id_reaches_the_published_flow_of_70b(cluster: str) -> None:
    placement = BASELINES["petals"](reference_snapshot(cluster, "70b"), PlanOptions(), None, None)
    assert placement.value_mtokens_per_s / 1000 == pytest.approx(952.11, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "mix", "flow"),
    [
        ("A100", "a100x4", 1044.53),
        # Published: 214.98 with a stage on each of the eight. Six stages of ten layers carry more,
        # since T(10) > T(8) in the artifact's own table.
        ("L4", "l4x8", 252.65),
        ("T4", "t4x12", 397.69),
    ],
)
@pytest.mark.parametrize("cluster", ["single24", "geo24"])
def test_separate_pipelines_reach_at_least_the_published_flow_of_each_type(
    cluster: str, kind: str, mix: str, flow: float
) -> None:
    snapshot = reference_snapshot(cluster, "30b", only_kind=kind, mix=mix)
    placement = BASELINES["separate"](snapshot, PlanOptions(), None, None)
    assert placement.value_mtokens_per_s / 1000 == pytest.approx(flow, abs=0.01)
