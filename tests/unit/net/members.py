"""Members of one open swarm."""

from helix_p2p.identity import Identity
from helix_p2p.membership.handshake import Admission
from helix_p2p.net.channel import Membership

ANN, BEN, EVE = (Identity(bytes([n]) * 32).peer_id for n in (1, 2, 3))


def member_of(swarm: str, *, model: str = "m" * 64, timeout_s: float = 5.0) -> Membership:
    return Membership.of(
        lambda: Admission(swarm, model), unix_s=lambda: 1_800_000_000.0, timeout_s=timeout_s
    )
