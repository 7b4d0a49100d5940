"""Small swarms for simulation."""

from itertools import pairwise

from helix_p2p.sim.helix.setup import HelixSetup, LinkSetup, StageSetup
from helix_p2p.types import LayerRange, PeerId


def stage(
    name: str, start: int, end: int, *, kv: int = 10**7, decode_s: float = 0.001
) -> StageSetup:
    prefill = tuple(0.00002 * tokens for tokens in range(3 * 2048 + 1))
    decode = (0.0, *(decode_s * (1 + 0.02 * n) for n in range(1, 257)))
    return StageSetup(PeerId(name), LayerRange(start, end), kv, prefill, decode, 3, 256)


def swarm_of(*stages: StageSetup, latency_s: float = 0.01) -> HelixSetup:
    """Every legal link, all alike; as much flow as its target could hold layers."""
    layers = max(s.layers.end for s in stages)
    links = [LinkSetup(None, s.peer, latency_s, 1e8, 100.0) for s in stages if s.layers.start == 0]
    links += [
        LinkSetup(s.peer, None, latency_s, 1e8, 100.0) for s in stages if s.layers.end == layers
    ]
    links += [
        LinkSetup(a.peer, b.peer, latency_s, 1e8, 100.0)
        for a in stages
        for b in stages
        if a.layers.end == b.layers.start
    ]
    return HelixSetup(layers, 16384, stages, tuple(links))


def chain(*stages: StageSetup, latency_s: float = 0.01) -> HelixSetup:
    names = [None, *(s.peer for s in stages), None]
    links = tuple(LinkSetup(a, b, latency_s, 1e9, 100.0) for a, b in pairwise(names))
    return HelixSetup(stages[-1].layers.end, 16384, stages, links)


def doubled() -> HelixSetup:
    """Three stages, two peers for each."""
    return swarm_of(
        *(
            stage(f"{name}{copy}", start, end)
            for name, start, end in (("a", 0, 4), ("b", 4, 8), ("c", 8, 12))
            for copy in (1, 2)
        )
    )
