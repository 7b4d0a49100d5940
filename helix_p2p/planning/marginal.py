"""What each peer is worth to a placement, and what holds it back.

The marginal value of a peer is the flow that is lost without it, everyone else staying where they
are: what a volunteer is told ("your GPU adds 41 tokens/s; your uplink is the bottleneck") and what
an operator looks at before asking someone to stay.

Always: a peer whose loss uncovers a layer is worth the whole flow; values need not add up, since
peers that stand in for each other are worth little each.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from helix_p2p.cluster.profile import PeerProfile, throughput_curve
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import MTOKENS, Capacities, capacities_of
from helix_p2p.planning.coverage import Layout, coverage, layout_of
from helix_p2p.planning.flow import links_may_bind, route_flow
from helix_p2p.planning.plan import Placement
from helix_p2p.types import LayerRange, PeerId

LINKED_PEERS_LIMIT = 128
"""Above this, marginal values over binding links (a max flow each) are taken by coverage alone."""

_MORE_MEMORY = 1.1
_NOTICEABLE = 1.01


class Resource(StrEnum):
    """What holds a peer's capacity down."""

    COMPUTE = "compute"
    MEMORY = "memory"
    UPLINK = "uplink"
    DOWNLINK = "downlink"


@dataclass(frozen=True, slots=True)
class PeerWorth:
    """One peer's part in a placement.

    Attributes:
        peer: Who.
        layers: What it holds; None for nothing.
        capacity_mtokens_per_s: What it can carry there.
        flow_mtokens_per_s: What it carries.
        marginal_mtokens_per_s: Flow that is lost without it, everyone else staying.
        limit: What holds its capacity down there; None for a peer that holds nothing.
        in_cut: Whether the min cut runs through it.
    """

    peer: PeerId
    layers: LayerRange | None
    capacity_mtokens_per_s: int
    flow_mtokens_per_s: int
    marginal_mtokens_per_s: int
    limit: Resource | None
    in_cut: bool


def worths(
    snapshot: Snapshot, placement: Placement, capacities: Capacities | None = None
) -> tuple[PeerWorth, ...]:
    """What each peer of a snapshot is worth to a placement, ascending by id.

    Args:
        snapshot: The swarm.
        placement: Over its peers.
        capacities: Of the snapshot, where they are known already.
    """
    table = capacities_of(snapshot) if capacities is None else capacities
    layout = layout_of(table, placement.assignments)
    held = {a.peer: a.layers for a in placement.assignments}
    carried = dict.fromkeys(table.peers, 0)
    for edge in placement.flows:
        if edge.target is not None:
            carried[edge.target] = carried.get(edge.target, 0) + edge.mtokens_per_s
    lost = _losses(snapshot, table, layout, placement.value_mtokens_per_s)
    cut = set(placement.min_cut.peers)
    found = []
    for row, profile in enumerate(snapshot.peers):
        layers = held.get(profile.peer)
        capacity = 0 if layers is None else table.of(row, layers)
        found.append(
            PeerWorth(
                peer=profile.peer,
                layers=layers,
                capacity_mtokens_per_s=capacity,
                flow_mtokens_per_s=carried[profile.peer],
                marginal_mtokens_per_s=int(lost[row]),
                limit=None if layers is None else limit_of(snapshot, profile, layers, capacity),
                in_cut=profile.peer in cut,
            )
        )
    return tuple(found)


def limit_of(
    snapshot: Snapshot, profile: PeerProfile, layers: LayerRange, capacity_mtokens_per_s: int
) -> Resource:
    """The resource of which more would raise a peer's capacity on a range.

    Args:
        snapshot: For the model.
        profile: The peer.
        layers: What it holds.
        capacity_mtokens_per_s: What it can carry there.
    """
    model = snapshot.model
    sides = []
    if layers.end < model.layers:
        sides.append((profile.uplink_bytes_per_s, Resource.UPLINK))
    if layers.start > 0:
        sides.append((profile.downlink_bytes_per_s, Resource.DOWNLINK))
    thinnest = min(
        ((rate, side) for rate, side in sides if rate is not None), default=None, key=lambda s: s[0]
    )
    if thinnest is not None:
        network = thinnest[0] / max(1, model.activation_bytes) * MTOKENS
        if network <= capacity_mtokens_per_s + 1:
            return thinnest[1]
    if profile.speed is None:
        return Resource.COMPUTE
    # More memory means larger batches; where that would help, memory is what lacks.
    k = len(layers)
    held = model.as_held(profile.held)
    now = throughput_curve(held, profile.memory_bytes, profile.speed)
    more = throughput_curve(held, round(profile.memory_bytes * _MORE_MEMORY), profile.speed)
    if len(now) < k <= len(more) or (len(now) >= k and more[k - 1] > now[k - 1] * _NOTICEABLE):
        return Resource.MEMORY
    return Resource.COMPUTE


def _losses(
    snapshot: Snapshot, table: Capacities, layout: Layout, value: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """[peers]: flow lost without each."""
    covered = coverage(table, layout)
    own = table.of_layout(layout.starts, layout.ends)
    exact = links_may_bind(snapshot) and len(table.peers) <= LINKED_PEERS_LIMIT
    lost = np.zeros(len(table.peers), dtype=np.int64)
    for row in np.flatnonzero(own > 0):
        begin, end = int(layout.starts[row]), int(layout.ends[row])
        left = min(int(covered[begin:end].min()) - int(own[row]), int(covered.min()))
        if exact:
            starts, ends = layout.starts.copy(), layout.ends.copy()
            starts[row] = ends[row] = 0
            left = route_flow(snapshot, table, Layout(starts, ends)).value_mtokens_per_s
        lost[row] = max(0, value - max(0, min(left, value)))
    return lost
