"""Small questions about a swarm that peers and bootstrap nodes both ask.

Always: answered from membership's view as it stands, without IO.
"""

import time
from collections.abc import Mapping, Sequence

from helix_p2p.cluster.announcement import Announcement
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import HandshakeRefused, SwarmTooSmall
from helix_p2p.membership.credentials import Role, verify_credentials
from helix_p2p.membership.member import Member
from helix_p2p.node.joining import Belonging
from helix_p2p.node.status import MemberStatus
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.coverage import some_cover
from helix_p2p.types import PeerId


def has_role(belonging: Belonging, peer: PeerId, said: Announcement, role: Role) -> bool:
    """Whether a peer's announced certificate gives it a role now."""
    try:
        roles = verify_credentials(
            said.credentials,
            peer=peer,
            swarm=belonging.swarm,
            root_public_key=belonging.root_public_key,
            now_unix_s=time.time(),
        )
    except HandshakeRefused:
        return False
    return role in roles


def what_is_missing(snapshot: Snapshot | None) -> str:
    """Why these peers cannot serve the model, in words; empty when they could."""
    if snapshot is None:
        return ""
    try:
        some_cover(snapshot.model, capacities_of(snapshot))
    except SwarmTooSmall as error:
        return str(error)
    return ""


def hosts_of(announcements: Mapping[PeerId, Announcement]) -> dict[PeerId, str]:
    """Which peers share a machine: those with the same addresses, loopback aside."""
    return {peer: host_of(said.addresses) for peer, said in announcements.items()}


def host_of(addresses: Sequence[str]) -> str:
    """A name for the machine behind some multiaddrs; all of loopback is one machine."""
    found = {parts[2] for a in addresses if len(parts := a.split("/")) > 2}
    outside = {host for host in found if not host.startswith("127.") and host != "::1"}
    return " ".join(sorted(outside or found))


def member_statuses(member: Member, now_s: float) -> tuple[MemberStatus, ...]:
    """Everyone as this node knows them, itself included where it lends a device."""
    rows = []
    for peer, said in sorted(member.announcements().items()):
        entry = member.view.get(peer)
        if said.speed is None and peer == member.peer_id:
            continue
        rows.append(
            MemberStatus(
                peer=peer,
                state=said.state,
                name=said.public_name,
                device=said.device,
                memory_bytes=said.memory_bytes,
                serving=(said.serving.start, said.serving.end) if said.serving else None,
                epoch=said.epoch,
                rtt_s=entry.rtt_s if entry else None,
                age_s=max(0.0, now_s - entry.detector.alive_s) if entry else None,
            )
        )
    return tuple(rows)
