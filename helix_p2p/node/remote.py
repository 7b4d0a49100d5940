"""Asking a node elsewhere how it is, as a guest with an invite.

Always: the guest has a key of its own for this one question and leaves nothing behind.
"""

import secrets
import time
from typing import Any

from helix_p2p.errors import ProtocolError
from helix_p2p.identity import Identity
from helix_p2p.membership.handshake import Admission
from helix_p2p.membership.invite import read_invite
from helix_p2p.membership.messages import GetStatus, StatusReply
from helix_p2p.net.channel import Membership
from helix_p2p.net.libp2p import Libp2pTransport
from helix_p2p.net.requests import Requests
from helix_p2p.node.status import status_object
from helix_p2p.types import PeerId


async def ask_remote_status(
    address: str, invite_text: str, timeout_s: float = 15.0
) -> dict[str, Any]:
    """What the node at `address` says of itself.

    Args:
        address: Multiaddr with `/p2p/…`.
        invite_text: Of its swarm.
        timeout_s: For the answer.

    Raises:
        InviteError: The invite is no good, or has expired.
        PeerUnreachable: Nobody answers there.
        HandshakeRefused: It is of another swarm.
    """
    invite = read_invite(invite_text)
    invite.check(time.time())
    guest = Identity(secrets.token_bytes(32))
    admission = Admission(
        swarm=invite.swarm,
        manifest_hash="",
        root_public_key=invite.root_public_key if invite.trusted else None,
        credentials=invite.credentials_for(guest.public_key),
    )
    peer = address.rpartition("/p2p/")[2]
    transport = await Libp2pTransport.start(guest, bootstrap=(address,))
    try:
        async with Requests(transport, Membership.of(lambda: admission)) as requests:
            reply, data = await requests.ask(
                PeerId(peer), GetStatus(), timeout_s=timeout_s, addresses=(address,)
            )
    finally:
        await transport.close()
    if not isinstance(reply, StatusReply):
        raise ProtocolError(f"{peer} answered with something that is no status")
    return status_object(data)
