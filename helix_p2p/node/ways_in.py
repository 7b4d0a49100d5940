"""By which addresses a node comes in: those it was told, and those it knew before.

Always: bootstrap nodes come first; known ones are tried only where they can lead anywhere.
"""

import random
from collections.abc import Sequence

from helix_p2p.node.config import NetworkConfig
from helix_p2p.node.joining import Belonging
from helix_p2p.node.state import StateDir
from helix_p2p.types import PeerId

ASKED_OF_BEFORE = 16
"""Of those known from before: enough that some are there still, and honest."""


def ways_in(belonging: Belonging, network: NetworkConfig, state: StateDir) -> tuple[str, ...]:
    """Bootstrap nodes first, then members known from before, so that a restart needs no node."""
    known = (a for a in state.known_peers() if network.behind_nat or "/127.0.0.1/" in a)
    return tuple(dict.fromkeys((*belonging.bootstrap, *known)))


def first_asked(
    belonging: Belonging, network: NetworkConfig, state: StateDir
) -> dict[PeerId, tuple[str, ...]]:
    """Whom a start asks, with addresses: all that it was told, and some of those from before."""
    named = addresses_by_peer(belonging.bootstrap)
    known = addresses_by_peer(ways_in(belonging, network, state))
    before = [peer for peer in known if peer not in named]
    some = random.sample(before, min(len(before), ASKED_OF_BEFORE))
    return named | {peer: known[peer] for peer in some}


def addresses_by_peer(addresses: Sequence[str]) -> dict[PeerId, tuple[str, ...]]:
    """By whom they lead to.

    Args:
        addresses: Multiaddrs that end in `/p2p/…`.
    """
    known: dict[PeerId, tuple[str, ...]] = {}
    for address in addresses:
        peer = PeerId(address.rpartition("/p2p/")[2])
        known[peer] = (*known.get(peer, ()), address)
    return known
