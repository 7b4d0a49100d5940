"""Small swarms for the planner's tests: a model, peers with real keys, signed announcements."""

from random import Random

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import PeerProfile, SpeedProfile, throughput_curve
from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.identity import Identity, Signed
from helix_p2p.types import PeerId

SWARM = "test-swarm"
NOW_UNIX_S = 1_900_000_000.0


def make_model(layers: int = 24) -> ModelSpec:
    return ModelSpec(
        name="test/model",
        manifest_hash="ab" * 32,
        layers=layers,
        d_model=1024,
        vocab_size=32000,
        context_tokens=2048,
        layer_bytes=50_000_000,
        embedding_bytes=65_000_000,
        head_bytes=65_000_000,
        kv_bytes_per_token=4096,
        activation_bytes=2048,
    )


def make_speed(factor: float) -> SpeedProfile:
    return SpeedProfile(
        prefill=((16, 0.002 * factor), (256, 0.008 * factor)),
        decode=((1, 0.001 * factor), (8, 0.0014 * factor), (64, 0.005 * factor)),
        head_s=0.0005 * factor,
    )


def make_identity(number: int) -> Identity:
    return Identity(number.to_bytes(4, "big") * 8)


def make_announcements(
    model: ModelSpec, memories: list[int], seed: int = 0
) -> list[tuple[Identity, Announcement]]:
    random = Random(seed)
    return [
        (
            make_identity(number),
            Announcement(
                incarnation=1,
                sequence=number,
                issued_unix_s=NOW_UNIX_S - 5,
                manifest_hash=model.manifest_hash,
                state=PeerState.STANDBY,
                memory_bytes=memory,
                speed=make_speed(random.choice([1.0, 2.0, 5.0])),
                uplink_bytes_per_s=random.choice([None, 2.5e6, 1e7]),
                downlink_bytes_per_s=random.choice([None, 1e7, 5e7]),
            ),
        )
        for number, memory in enumerate(memories)
    ]


def signed_all(said: list[tuple[Identity, Announcement]]) -> tuple[Signed, ...]:
    return tuple(announcement.signed(identity, SWARM) for identity, announcement in said)


def make_snapshot(model: ModelSpec, memories: list[int], factors: list[float]) -> Snapshot:
    peers = []
    for number, (memory, factor) in enumerate(zip(memories, factors, strict=True)):
        speed = make_speed(factor)
        curve = throughput_curve(model, memory, speed)
        peers.append(PeerProfile(PeerId(f"p{number:03}"), memory, curve, speed=speed))
    return Snapshot(model, tuple(peers), default_link=Link(0.01))


def random_snapshot(count: int, seed: int, layers: int = 24) -> Snapshot:
    random = Random(seed)
    memories = [random.randrange(300_000_000, 1_500_000_000) for _ in range(count)]
    factors = [random.uniform(1, 6) for _ in range(count)]
    return make_snapshot(make_model(layers), memories, factors)
