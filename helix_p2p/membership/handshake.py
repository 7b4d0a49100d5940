"""Whom we talk to: the check of the first frame on every stream.

Always: nothing else of the other end is read before this has passed. The remote peer id comes from
the encrypted transport, the certificate must name that very id, so a chain that was overheard is
of no use to anyone else.
"""

from collections.abc import Collection
from dataclasses import dataclass

from helix_p2p.cluster.announcement import PROTOCOL_VERSION
from helix_p2p.errors import HandshakeRefused
from helix_p2p.membership.credentials import Role, is_open, verify_credentials
from helix_p2p.membership.messages import Hello
from helix_p2p.types import PeerId

NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Admission:
    """What we are part of, and so whom we let in.

    Attributes:
        swarm: Ours; between members, our cell's id.
        manifest_hash: Our model; empty for a client or bootstrap node that takes any.
        root_public_key: The swarm's root; None in an open swarm.
        credentials: Our own chain.
        revoked: Peer ids, and ids of invites, that no longer count.
        protocol_version: Ours.
    """

    swarm: str
    manifest_hash: str
    root_public_key: bytes | None = None
    credentials: bytes = b""
    revoked: Collection[str] = ()
    protocol_version: int = PROTOCOL_VERSION

    def hello(self, nonce: bytes) -> Hello:
        """Our first frame; `nonce` are 16 fresh random bytes."""
        return Hello(self.protocol_version, self.swarm, self.manifest_hash, self.credentials, nonce)


def check_hello(
    hello: Hello, admission: Admission, *, remote: PeerId, now_unix_s: float
) -> frozenset[Role]:
    """Check the other end's first frame.

    Args:
        hello: What it sent.
        admission: What we are part of.
        remote: Who it is, authenticated by the transport.
        now_unix_s: Wall clock.

    Returns:
        What it may do. One without a model (a client, a bootstrap node) is no `PEER` on this
        stream, whatever its certificate says.

    Raises:
        HandshakeRefused: It is of another version, swarm or model, or is no member.
    """
    if hello.protocol_version != admission.protocol_version:
        raise HandshakeRefused(
            f"it speaks protocol version {hello.protocol_version}, "
            f"we speak {admission.protocol_version}",
            hint="update the older of the two",
        )
    if hello.swarm != admission.swarm and not _is_guest_of_open(hello, admission):
        raise HandshakeRefused(
            f"it is of the swarm {hello.swarm[:40]}, we are of {admission.swarm}"
        )
    if len(hello.nonce) != NONCE_BYTES:
        raise HandshakeRefused(f"its nonce has {len(hello.nonce)} bytes, not {NONCE_BYTES}")
    theirs, ours = hello.manifest_hash, admission.manifest_hash
    if theirs and ours and theirs != ours:
        raise HandshakeRefused(
            f"it serves other weights (manifest {theirs[:12]}) than we do ({ours[:12]})",
            hint="both need the same model folder",
        )
    roles = verify_credentials(
        hello.credentials,
        peer=remote,
        swarm=admission.swarm,
        root_public_key=admission.root_public_key,
        now_unix_s=now_unix_s,
        revoked=admission.revoked,
    )
    return roles if theirs else roles - {Role.PEER, Role.PLANNER}


def _is_guest_of_open(hello: Hello, admission: Admission) -> bool:
    """A client that was given an address only names no swarm; an open one lets it in."""
    return not hello.swarm and not hello.manifest_hash and is_open(admission.swarm)
