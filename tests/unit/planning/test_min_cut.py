"""The min cut over binding links is one of peers and links, and its size is the flow."""

from random import Random

import pytest

from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import PeerProfile
from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.coverage import layout_of
from helix_p2p.planning.flow import link_mtokens_per_s, max_flow
from helix_p2p.planning.plan import Assignment
from helix_p2p.types import LayerRange, PeerId

MODEL = ModelSpec("small", "00", 6, 64, 100, 512, 1000, 0, 0, 1, 128)


@pytest.mark.parametrize("seed", range(40))
def test_cut_over_links_has_no_client_side_and_the_size_of_the_flow(seed: int) -> None:
    rng = Random(seed)
    # Few distinct rates, so that peers, links and the whole flow often tie.
    peers = tuple(
        PeerProfile(
            PeerId(f"p{i}"), 10**7, tuple(float(rng.choice((10, 20, 40))) for _ in range(6))
        )
        for i in range(6)
    )
    links = {
        (a.peer, b.peer): Link(0.01, 128.0 * rng.choice((10, 20, 40)))
        for a in peers
        for b in peers
        if a is not b
    }
    snapshot = Snapshot(MODEL, peers, links, None)
    capacities = capacities_of(snapshot)
    held = []
    for n, profile in enumerate(peers):
        start = (0, 0, 2, 2, 4, 4)[n]
        held.append(Assignment(profile.peer, LayerRange(start, min(6, start + rng.randint(2, 4)))))
    layout = layout_of(capacities, held)
    routing = max_flow(snapshot, capacities, layout)
    ranges = {a.peer: a.layers for a in held}
    size = sum(capacities.of(capacities.index[p], ranges[p]) for p in routing.min_cut.peers)
    for source, target in routing.min_cut.links:
        assert source is not None
        assert target is not None
        link = snapshot.link(source, target)
        assert link is not None
        size += link_mtokens_per_s(link.bandwidth_bytes_per_s, MODEL.activation_bytes)
    assert size == routing.value_mtokens_per_s > 0
