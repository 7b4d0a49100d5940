"""What a newcomer is worth to a swarm, before anybody moves a layer for it.

Said at join: "your GPU adds 41 tokens/s". The priced bound with it less the bound without it: what
the swarm could carry more at best, which search comes within a few percent of.

Always: never negative; a peer that cannot hold a layer is worth nothing.
"""

from dataclasses import replace

from helix_p2p.cluster.profile import PeerProfile
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.bound import dual_prices, upper_bound
from helix_p2p.planning.capacity import capacities_of


def value_at_join(snapshot: Snapshot, newcomer: PeerProfile) -> int:
    """Thousandths of a token per second that a peer adds to what a swarm can carry at best.

    Args:
        snapshot: The swarm, with or without the newcomer.
        newcomer: As it would announce itself.
    """
    others = tuple(profile for profile in snapshot.peers if profile.peer != newcomer.peer)
    joined = tuple(sorted((*others, newcomer), key=lambda profile: profile.peer))
    return max(0, _at_best(snapshot, joined) - _at_best(snapshot, others))


def _at_best(snapshot: Snapshot, peers: tuple[PeerProfile, ...]) -> int:
    if not peers:
        return 0
    table = capacities_of(replace(snapshot, peers=peers))
    loose = upper_bound(table)
    return upper_bound(table, dual_prices(table, loose))
