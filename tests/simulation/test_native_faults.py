"""Two hundred short lives of a small swarm: crashes, hangs, partitions, loss, slow peers,
clocks that agree on nothing.

Invariants are checked at every step (order and truth of each token, KV room, layer order); a run
that ends has kept them. A failure names the seed: `pytest -k 'seed-17'` replays it.
"""

from random import Random

import pytest

from helix_p2p.sim.helix.replay import HelixRun
from helix_p2p.sim.native.swarm import ServingRules, ServingSwarm
from helix_p2p.sim.native.workload import Workload
from tests.unit.sim.setups import doubled

FAULTS_S = 12.0
CALM_S = 240.0


def live(seed: int) -> tuple[ServingSwarm, Workload]:
    chance = Random(seed)
    rules = ServingRules(loss=chance.choice([0.0, 0.0, 0.02, 0.1]))
    swarm = ServingSwarm(doubled(), rules, seed)
    work = Workload(swarm, HelixRun(feed=4, seed=seed, warm_up_s=0.0, duration_s=FAULTS_S))
    work.start()
    names = sorted(swarm.peers)
    for peer in swarm.peers.values():  # clocks agree neither on the time nor on a second
        peer.clock_offset_s = chance.uniform(0.0, 1000.0)
        peer.clock_rate = chance.uniform(0.97, 1.03)
    for _ in range(chance.randint(1, 4)):
        victim = chance.choice(names)
        at_s = chance.uniform(0.5, FAULTS_S - 4)
        match chance.choice(["crash", "crash", "hang", "slow", "partition"]):
            case "crash":
                swarm.time.at(at_s, swarm.crash, victim)
                swarm.time.at(at_s + chance.uniform(0.5, 8), swarm.restart, victim)
            case "hang":
                swarm.time.at(at_s, swarm.hang, victim, chance.uniform(0.5, 8))
            case "slow":
                swarm.time.at(at_s, swarm.slow, victim, 10.0)
            case "partition":
                sides = {name: chance.randint(0, 1) for name in names}
                swarm.time.at(at_s, swarm.partition, sides, chance.uniform(1, 8))
    return swarm, work


@pytest.mark.parametrize("seed", range(200), ids=lambda seed: f"seed-{seed}")
def test_whatever_fails_every_token_comes_once_and_right(seed: int) -> None:
    swarm, work = live(seed)
    swarm.time.run(FAULTS_S + CALM_S)
    assert work.running == 0, f"seed {seed}: a client never got an end"
    assert work.outcome.failed == 0, f"seed {seed}: {work.outcome}"
    assert work.outcome.finished >= 4, f"seed {seed}: {work.outcome}"
    swarm.time.run(swarm.time.now_s + 120.0)
    for peer in swarm.peers.values():
        assert peer.ledger.used_token_layers == 0, f"seed {seed}: {peer.me} leaks KV"
        assert peer.engine.caches == 0, f"seed {seed}: {peer.me} leaks a cache"


def test_a_seed_replays_exactly() -> None:
    hashes = []
    for _ in range(2):
        swarm, _work = live(11)
        swarm.time.run(FAULTS_S + CALM_S)
        hashes.append((swarm.time.trace_hash(), swarm.time.events))
    assert hashes[0] == hashes[1]
