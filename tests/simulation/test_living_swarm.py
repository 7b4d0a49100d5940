"""Membership, planning, loading and serving of a whole swarm, under churn, in virtual time."""

import pytest

from helix_p2p.sim.helix.replay import HelixRun
from helix_p2p.sim.living import LivingSwarm
from helix_p2p.sim.native.workload import Workload
from helix_p2p.sim.volunteers import volunteers


def swarm_of(peers: int, seed: int) -> LivingSwarm:
    hint = f"pytest tests/simulation/test_living_swarm.py -k seed-{seed}"
    return volunteers(peers, seed, replay_hint=hint)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(0, marks=pytest.mark.slow, id="seed-0"),
        pytest.param(1, marks=pytest.mark.slow, id="seed-1"),
        pytest.param(2, id="seed-2"),
    ],
)
def test_a_swarm_plans_serves_and_outlives_its_peers(seed: int) -> None:
    swarm = swarm_of(10, seed)
    swarm.time.run(150.0)
    assert swarm.one_plan()
    assert len(swarm.planners()) == 1
    work = Workload(swarm, HelixRun(feed=4, seed=seed, warm_up_s=0.0, duration_s=120.0))
    work.start()
    crashes = swarm.churn(0.4, 600.0, swarm.time.now_s + 100.0, 30.0)
    victim = swarm.planners()[0]
    swarm.time.at(swarm.time.now_s + 20.0, swarm.crash, victim)
    swarm.time.at(swarm.time.now_s + 60.0, swarm.restart, victim)
    swarm.time.run(swarm.time.now_s + 600.0)
    assert work.running == 0
    assert work.outcome.finished >= 0.99 * (work.outcome.finished + work.outcome.failed)
    assert work.outcome.finished > 8, f"{crashes} crashes, {work.outcome}"
    assert swarm.one_plan()
    assert len(swarm.planners()) == 1
    assert swarm.member_bytes > 0
    for peer in swarm.peers.values():
        assert peer.ledger.used_token_layers == 0, f"{peer.me} leaks KV"


def test_a_whole_swarm_replays_exactly() -> None:
    hashes = []
    for _ in range(2):
        swarm = swarm_of(6, 5)
        swarm.time.run(90.0)
        hashes.append((swarm.time.trace_hash(), swarm.time.events, swarm.member_bytes))
    assert hashes[0] == hashes[1]
