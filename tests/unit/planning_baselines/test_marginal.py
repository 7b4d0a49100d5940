from random import Random

import pytest

from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.presets import DEVICES, MODELS, roofline
from helix_p2p.cluster.profile import PeerProfile, throughput_curve
from helix_p2p.cluster.reference import reference_snapshot
from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.planning.baselines import BASELINES
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.coverage import layout_of
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.marginal import Resource, limit_of, worths
from helix_p2p.planning.plan import Assignment
from helix_p2p.planning.planner import PlanOptions
from helix_p2p.types import LayerRange, PeerId


@pytest.mark.parametrize("cluster", ["single24", "geo24"])
def test_marginal_value_is_the_flow_lost_without_the_peer(cluster: str) -> None:
    snapshot = reference_snapshot(cluster, "30b")
    placement = BASELINES["petals"](snapshot, PlanOptions(), None, None)
    found = {worth.peer: worth for worth in worths(snapshot, placement)}
    capacities = capacities_of(snapshot)
    for gone in Random(1).sample(placement.assignments, 6):
        left = [a for a in placement.assignments if a is not gone]
        routing = route_flow(snapshot, capacities, layout_of(capacities, left))
        lost = placement.value_mtokens_per_s - routing.value_mtokens_per_s
        assert found[gone.peer].marginal_mtokens_per_s == lost


def test_only_holder_of_a_layer_is_worth_everything_and_an_idle_peer_nothing() -> None:
    model = ModelSpec("small", "00", 4, 64, 100, 512, 1000, 0, 0, 1, 128)
    curve = (400.0, 200.0, 130.0, 100.0)
    peers = tuple(PeerProfile(PeerId(name), 10**6, curve) for name in "abc")
    snapshot = Snapshot(model, peers, default_link=Link(0.01))
    placement = BASELINES["petals"](snapshot, PlanOptions(), None, None)
    assert len(placement.assignments) == 3  # each holds everything
    assert [w.marginal_mtokens_per_s for w in worths(snapshot, placement)] == [100_000] * 3
    alone = Snapshot(model, peers[:1], default_link=Link(0.01))
    single = BASELINES["petals"](alone, PlanOptions(), None, None)
    two = Snapshot(model, peers[:2], default_link=Link(0.01))
    whole, idle = worths(two, single)
    assert (whole.marginal_mtokens_per_s, idle.marginal_mtokens_per_s) == (100_000, 0)
    assert idle.layers is None
    assert idle.limit is None


def test_limit_names_the_resource_that_binds() -> None:
    shape = MODELS["llama-3.3-70b"]
    model = shape.spec(4)
    speed = roofline(shape, 4, DEVICES["rtx-4090"])

    def limit(layers: LayerRange, memory_gb: float, up: float | None, down: float | None) -> str:
        memory = round(memory_gb * 1e9)
        curve = throughput_curve(model, memory, speed)
        profile = PeerProfile(PeerId("p"), memory, curve, up, down, speed)
        snapshot = Snapshot(model, (profile,))
        capacity = capacities_of(snapshot).of(0, layers)
        assert capacity > 0
        return limit_of(snapshot, profile, layers, capacity)

    inside = LayerRange(10, 20)
    assert limit(inside, 24, 1e6, 1e9) == Resource.UPLINK
    assert limit(inside, 24, 1e9, 1e6) == Resource.DOWNLINK
    assert limit(inside, 6.0, 1e9, 1e9) == Resource.MEMORY
    assert limit(inside, 200, 1e9, 1e9) == Resource.COMPUTE
    # The last stage sends no activations on.
    assert limit(LayerRange(70, 80), 24, 1e6, 1e9) != Resource.UPLINK


def test_layers_of_worths_are_those_of_the_placement() -> None:
    snapshot = reference_snapshot("single24", "70b")
    placement = BASELINES["swarm"](snapshot, PlanOptions(), None, None)
    stated = [Assignment(w.peer, w.layers) for w in worths(snapshot, placement) if w.layers]
    assert tuple(stated) == placement.assignments
