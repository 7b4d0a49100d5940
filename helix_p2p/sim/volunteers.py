"""What people lend, drawn from a seed: five kinds of home GPU, three kinds of line, honest clocks.

Always: the same seed gives the same swarm.
"""

from random import Random

from helix_p2p.cluster.presets import DEVICES, MODELS, roofline
from helix_p2p.sim.living import LivingSwarm
from helix_p2p.sim.mind import Hardware
from helix_p2p.sim.native.swarm import ServingRules

SHAPE = MODELS["llama-3.1-8b"]
KINDS = ("rtx-3060", "rtx-3070", "rtx-4060", "rtx-3080", "t4")
DOWNLINKS_BYTES_PER_S = (6e6, 12.5e6, 50e6)
WEIGHT_BYTES = 4
SHARE_LENT = 4
"""A quarter of each card, so that a model of 8 billion needs several peers."""


def volunteers(
    peers: int, seed: int, *, loss: float = 0.005, replay_hint: str = "", cells: int = 1
) -> LivingSwarm:
    """A swarm that is about to boot."""
    chance = Random(seed)
    lent = []
    for _ in range(peers):
        device = DEVICES[chance.choice(KINDS)]
        lent.append(
            Hardware(
                device.memory_bytes // SHARE_LENT,
                roofline(SHAPE, WEIGHT_BYTES, device),
                chance.choice(DOWNLINKS_BYTES_PER_S),
                chance.uniform(-2, 2),
            )
        )
    rules = ServingRules(loss=loss, context_tokens=8192)
    return LivingSwarm(SHAPE.spec(WEIGHT_BYTES), lent, rules, seed, replay_hint, cells)
