"""A first plan's layers are ready about together, where peers can change places at little cost."""

from dataclasses import replace

import numpy as np
import pytest

from helix_p2p.cluster.profile import PeerProfile, throughput_curve
from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.coverage import Layout, coverage
from helix_p2p.planning.planner import PlanOptions, plan
from helix_p2p.planning.sooner import MOST_LOST, READY_WITH, sooner
from helix_p2p.types import PeerId
from tests.unit.planning.swarms import make_model, make_speed

MODEL = make_model(8)
SLOW, QUICK = 1.0, 50.0
"""Lines, in layers per second."""


def swarm_of(lines: list[float], layers: int = 4, slowness: float = 1.0) -> Snapshot:
    memory = layers * (MODEL.layer_bytes + 64 * 2048 * MODEL.kv_bytes_per_token // MODEL.layers)
    speed = make_speed(slowness)
    curve = throughput_curve(MODEL, memory, speed)
    peers = [
        PeerProfile(
            PeerId(f"p{number:03}"),
            memory,
            curve,
            downlink_bytes_per_s=line * MODEL.layer_bytes,
            speed=speed,
        )
        for number, line in enumerate(lines)
    ]
    return Snapshot(MODEL, tuple(peers), default_link=Link(0.01))


def halves(peers: int) -> Layout:
    """The first half of the peers hold the first half of the layers."""
    first = np.arange(peers) < peers // 2
    return Layout(np.where(first, 0, 4), np.where(first, 4, 8))


def quick_holders(snapshot: Snapshot, layout: Layout, layer: int) -> int:
    quick = np.array([p.downlink_bytes_per_s == QUICK * MODEL.layer_bytes for p in snapshot.peers])
    return int((quick & (layout.starts <= layer) & (layout.ends > layer)).sum())


def test_layers_of_slow_lines_get_quick_holders_and_coverage_stays() -> None:
    snapshot, layout = swarm_of([SLOW] * 8 + [QUICK] * 8), halves(16)
    table = capacities_of(snapshot)
    found = sooner(snapshot, table, layout)
    assert [quick_holders(snapshot, layout, layer) for layer in (0, 7)] == [0, 8]
    assert [quick_holders(snapshot, found, layer) for layer in (0, 7)] == [READY_WITH, 5]
    least = coverage(table, layout).min()
    assert coverage(table, found).min() >= (1 - MOST_LOST) * least


def test_who_does_not_fit_elsewhere_stays() -> None:
    snapshot, layout = swarm_of([SLOW] * 8 + [QUICK] * 8), halves(16)
    small = swarm_of([SLOW] * 8, layers=2).peers
    snapshot = replace(snapshot, peers=(*small, *snapshot.peers[8:]))
    layout = Layout(layout.starts, np.where(np.arange(16) < 8, 2, layout.ends))
    found = sooner(snapshot, capacities_of(snapshot), layout)
    assert found is layout


@pytest.mark.parametrize("lines", [[QUICK] * 16, [SLOW] * 16, [SLOW, QUICK] * 8])
def test_what_is_ready_together_stays(lines: list[float]) -> None:
    snapshot, layout = swarm_of(lines), halves(16)
    assert sooner(snapshot, capacities_of(snapshot), layout) is layout


def test_first_plan_of_a_large_swarm_has_quick_lines_at_every_layer() -> None:
    lines = [SLOW / 100 if number % 3 else QUICK for number in range(72)]
    snapshot = swarm_of(lines)
    placement = plan(snapshot, PlanOptions(steps=20))
    quick = {p.peer for p in snapshot.peers if p.downlink_bytes_per_s == QUICK * MODEL.layer_bytes}
    for layer in range(MODEL.layers):
        holders = {a.peer for a in placement.assignments if layer in a.layers}
        assert len(holders & quick) >= READY_WITH, layer
