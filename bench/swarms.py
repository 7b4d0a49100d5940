"""Seeded swarms of home GPUs, as nobody's real swarm but like many.

8-24 GB cards by their data sheets, lines of 20-1000 Mb/s, round trips of 5-200 ms in five regions,
Llama 70B at 4 bits. Up to 200 peers every pair is measured; beyond, each peer has measured 32
others, as in a live swarm, and the rest is assumed.

Always: equal seeds and sizes give equal swarms; peers' ids say nothing about what they are.
"""

from dataclasses import replace
from random import Random

from helix_p2p.cluster.presets import DEVICES, MODELS, roofline
from helix_p2p.cluster.profile import PeerProfile, throughput_curve
from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.types import PeerId

MODEL = "llama-3.3-70b"
BITS = 4
CARDS = {
    "rtx-3060": 22,
    "rtx-3070": 14,
    "rtx-3080": 10,
    "rtx-3090": 12,
    "rtx-4060": 14,
    "rtx-4060-ti": 8,
    "rtx-4070": 8,
    "rtx-4080": 6,
    "rtx-4090": 6,
}
"""Shares in percent: many small cards, few large ones."""

REGIONS = 5
SLOWEST_MBIT, FASTEST_MBIT = 20.0, 1000.0
ALL_PAIRS_LIMIT = 200
MEASURED_OTHERS = 32


def home_swarm(peers: int, seed: int) -> Snapshot:
    """A swarm of home GPUs.

    Args:
        peers: How many.
        seed: Of all chance.
    """
    rng = Random(seed * 1_000_003 + peers)
    shape = MODELS[MODEL]
    model = shape.spec(BITS)
    speeds = {name: roofline(shape, BITS, DEVICES[name]) for name in CARDS}
    profiles: list[PeerProfile] = []
    for number in range(peers):
        card = rng.choices(list(CARDS), list(CARDS.values()))[0]
        # A desktop keeps some memory for itself.
        memory_bytes = round(DEVICES[card].memory_bytes * rng.uniform(0.85, 1.0))
        up = _log_uniform(rng, SLOWEST_MBIT, FASTEST_MBIT)
        down = _log_uniform(rng, up, FASTEST_MBIT)
        profiles.append(
            PeerProfile(
                peer=PeerId(f"{rng.randrange(16**8):08x}-{number:04d}"),
                memory_bytes=memory_bytes,
                tokens_per_s=throughput_curve(model, memory_bytes, speeds[card]),
                uplink_bytes_per_s=up * 1e6 / 8,
                downlink_bytes_per_s=down * 1e6 / 8,
                speed=speeds[card],
                kind=card,
                region=f"region-{rng.randrange(REGIONS)}",
            )
        )
    profiles.sort(key=lambda profile: profile.peer)
    return Snapshot(model, tuple(profiles), _links(profiles, rng), Link(0.06))


def _log_uniform(rng: Random, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())


def _links(profiles: list[PeerProfile], rng: Random) -> dict[tuple[PeerId, PeerId], Link]:
    """Round trips: both last miles, and the way between the regions."""
    mile_s = {profile.peer: rng.uniform(0.0025, 0.010) for profile in profiles}
    between_s = {
        (a, b): 0.0 if a == b else 0.020 + 0.030 * abs(a - b) for a in range(5) for b in range(5)
    }

    def link(a: PeerProfile, b: PeerProfile) -> Link:
        places = int((a.region or "0")[-1]), int((b.region or "0")[-1])
        rtt_s = mile_s[a.peer] + mile_s[b.peer] + between_s[places]
        return Link(min(0.2, max(0.005, rtt_s)) / 2)

    every = len(profiles) <= ALL_PAIRS_LIMIT
    links: dict[tuple[PeerId, PeerId], Link] = {}
    for profile in profiles:
        others = profiles if every else rng.sample(profiles, MEASURED_OTHERS)
        for other in others:
            if other is not profile:
                links[profile.peer, other.peer] = link(profile, other)
    return links


def churned(snapshot: Snapshot, share: float, seed: int) -> tuple[Snapshot, frozenset[PeerId]]:
    """The swarm after so many peers left and as many others joined.

    Returns:
        The new swarm, and who left.
    """
    rng = Random(seed)
    count = round(share * len(snapshot.peers))
    gone = frozenset(p.peer for p in rng.sample(list(snapshot.peers), count))
    kept = [profile for profile in snapshot.peers if profile.peer not in gone]
    fresh = list(home_swarm(max(2 * count, 4), seed + 77).peers)
    joined = [replace(p, peer=PeerId(f"{p.peer}-new")) for p in rng.sample(fresh, count)]
    peers = tuple(sorted([*kept, *joined], key=lambda profile: profile.peer))
    links = {pair: link for pair, link in snapshot.links.items() if gone.isdisjoint(pair)}
    return replace(snapshot, peers=peers, links=links), gone
