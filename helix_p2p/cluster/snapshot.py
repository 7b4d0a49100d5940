"""The swarm at one moment, as input of the planner: a model, peers, links.

Always: peers are sorted by id and unique, links join known peers; so equal swarms give equal
snapshots and a plan is reproducible from its snapshot.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from helix_p2p.cluster.announcement import Announcement
from helix_p2p.cluster.belief import FULL_BELIEF, beliefs
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import PeerProfile, throughput_curve
from helix_p2p.types import PeerId


@dataclass(frozen=True, slots=True)
class Link:
    """A directed way from one peer to another."""

    latency_s: float
    bandwidth_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the planner plans over.

    Attributes:
        model: What is served.
        peers: Every peer that may hold layers, ascending by id.
        links: Measured ways, by (from, to). A missing pair is `default_link`, or no way at all
            where `default_link` is None.
        default_link: What is assumed of a pair that nobody measured.
    """

    model: ModelSpec
    peers: tuple[PeerProfile, ...]
    links: Mapping[tuple[PeerId, PeerId], Link] = field(default_factory=dict)
    default_link: Link | None = field(default_factory=lambda: Link(0.05))

    def __post_init__(self) -> None:
        ids = [profile.peer for profile in self.peers]
        if any(a >= b for a, b in pairwise(ids)):
            raise ValueError("a snapshot's peers ascend by id, each once")

    def link(self, source: PeerId, target: PeerId) -> Link | None:
        """The way between two peers, None when there is none."""
        return self.links.get((source, target), self.default_link)


def snapshot_of(model: ModelSpec, announcements: Iterable[tuple[PeerId, Announcement]]) -> Snapshot:
    """Build the planner's input from announcements of peers that are measured.

    What others measured beats what a peer claims (`belief`).
    """
    profiles: list[PeerProfile] = []
    links: dict[tuple[PeerId, PeerId], Link] = {}
    said = sorted(announcements, key=lambda item: item[0])
    words = dict(said)
    believed = beliefs(words)
    backs = {
        (link.peer, taker): link.back_bytes_per_s for taker, word in said for link in word.links
    }
    for peer, announcement in said:
        if announcement.speed is None:
            continue
        held = model.as_held(announcement.held)
        belief = believed.get(peer, FULL_BELIEF)
        speed = announcement.speed
        if belief.slower > 1.0:
            speed = speed.slowed(belief.slower)
        profiles.append(
            PeerProfile(
                peer=peer,
                memory_bytes=announcement.memory_bytes,
                tokens_per_s=throughput_curve(held, announcement.memory_bytes, speed),
                uplink_bytes_per_s=belief.uplink_bytes_per_s or announcement.uplink_bytes_per_s,
                downlink_bytes_per_s=(
                    belief.downlink_bytes_per_s or announcement.downlink_bytes_per_s
                ),
                speed=speed,
                kind=announcement.device,
                held=announcement.held,
            )
        )
        for measured in announcement.links:
            if measured.peer in words and measured.peer != peer:
                taken = backs.get((peer, measured.peer))
                width = _narrower(measured.bandwidth_bytes_per_s, taken)
                links[peer, measured.peer] = Link(measured.rtt_s / 2, width)
    return Snapshot(model, tuple(profiles), links)


def _narrower(claimed: float | None, taken: float | None) -> float | None:
    """A way's width as its sender says and as its receiver does."""
    known = [width for width in (claimed, taken) if width is not None]
    return min(known, default=None)
