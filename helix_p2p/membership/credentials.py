"""Who may be part of a swarm: its root key, grants, membership certificates.

    root key ──signs──▶ Grant (an invite's public key, roles, expiry)
    invite's private key ──signs──▶ MembershipCertificate (a peer's public key, roles ⊆, expiry ≤)

The invite's private key travels in the invite, so one invite admits many peers while the root is
offline, and the root can still revoke it by its id (revocations.py). An open swarm has no root:
everyone has every role, and its id says so (`open-…`).

Always: a certificate never gives more than its grant, neither roles nor time. Signatures are
checked once per chain and remembered, since a chain's bytes cannot change under them; who shows it,
whether it was revoked and whether its time is over are checked each time.
"""

import base64
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from helix_p2p import codec
from helix_p2p.errors import HandshakeRefused, ProtocolError
from helix_p2p.identity import Identity, Signed, peer_id_of
from helix_p2p.membership.cells import swarm_of
from helix_p2p.types import PeerId

GRANT_KIND = "grant"
CERTIFICATE_KIND = "certificate"
CHAIN_LIMIT_BYTES = 2048
"""A chain has about 700 bytes, and must fit into an announcement of 10 KiB."""
OPEN_PREFIX = "open-"
CLOCK_LEEWAY_S = 60.0
"""How much an honest clock may be behind the one that set an expiry."""


class Role(StrEnum):
    """What a member may do."""

    PEER = "peer"
    PLANNER = "planner"
    CLIENT = "client"


ALL_ROLES = frozenset(Role)


@dataclass(frozen=True, slots=True)
class Grant:
    """What the root allows the holders of one invite.

    Attributes:
        invite_id: Names the invite when it is revoked, 16 hex digits.
        invite_public_key: Its key signs certificates.
        roles: At most these.
        expires_unix_s: At most until then.
    """

    invite_id: str
    invite_public_key: bytes
    roles: tuple[Role, ...]
    expires_unix_s: float


@dataclass(frozen=True, slots=True)
class MembershipCertificate:
    """One peer's membership, signed with an invite's key."""

    peer_public_key: bytes
    roles: tuple[Role, ...]
    expires_unix_s: float


@dataclass(frozen=True, slots=True)
class Chain:
    """What a peer shows: the root's word on the invite, the invite's word on the peer."""

    grant: Signed
    certificate: Signed


@dataclass(frozen=True, slots=True)
class Membership:
    """What a chain says once its signatures hold.

    Attributes:
        peer: Whose it is.
        invite_id: By which invite it came in.
        roles: What it may do.
        expires_unix_s: Until when.
    """

    peer: PeerId
    invite_id: str
    roles: frozenset[Role]
    expires_unix_s: float


def swarm_id_of(root_public_key: bytes) -> str:
    """The id of the swarm of this root: 24 base32 digits of its hash."""
    return _base32(b"helix-p2p/swarm\x00" + root_public_key)


def open_swarm_id_of(name: str) -> str:
    """The id of an open swarm; anyone who knows the name is in, and the id says so."""
    return OPEN_PREFIX + _base32(b"helix-p2p/open-swarm\x00" + name.encode())


def is_open(swarm: str) -> bool:
    """Whether nobody vouches for this swarm's members."""
    return swarm.startswith(OPEN_PREFIX)


def grant(
    root: Identity, invite: Identity, roles: Collection[Role], expires_unix_s: float
) -> Signed:
    """The root's word on an invite's key."""
    body = Grant(invite_id_of(invite.public_key), invite.public_key, _sorted(roles), expires_unix_s)
    return root.sign(GRANT_KIND, swarm_id_of(root.public_key), codec.encode(body))


def certify(invite: Identity, granted: Signed, peer_public_key: bytes) -> bytes:
    """A peer's chain with all that the grant allows, as bytes to show."""
    allowed = codec.decode(granted.body, Grant, limit_bytes=CHAIN_LIMIT_BYTES)
    body = MembershipCertificate(peer_public_key, allowed.roles, allowed.expires_unix_s)
    signed = invite.sign(CERTIFICATE_KIND, granted.swarm, codec.encode(body))
    return codec.encode(Chain(granted, signed))


def invite_id_of(invite_public_key: bytes) -> str:
    """16 hex digits that name an invite."""
    return codec.sha256(b"helix-p2p/invite\x00" + invite_public_key).hex()[:16]


def verify_credentials(
    chain: bytes,
    *,
    peer: PeerId,
    swarm: str,
    root_public_key: bytes | None,
    now_unix_s: float,
    revoked: Collection[str] = (),
) -> frozenset[Role]:
    """What `peer` may do in `swarm`, and so in each of its cells.

    Args:
        chain: As the peer showed it; ignored in an open swarm.
        peer: Authenticated by the transport, or a record's signer.
        swarm: Ours, or our cell's id.
        root_public_key: Ours; None in an open swarm.
        now_unix_s: Wall clock.
        revoked: Peer ids, and ids of invites, that no longer count.

    Raises:
        HandshakeRefused: The chain does not prove membership; the message says why.
    """
    if root_public_key is None:
        return ALL_ROLES
    said = open_chain(chain, swarm_of(swarm), root_public_key)
    if said.peer != peer:
        raise HandshakeRefused(f"its certificate belongs to another peer ({said.peer})")
    if peer in revoked:
        raise HandshakeRefused("the swarm's operator revoked this peer")
    if said.invite_id in revoked:
        raise HandshakeRefused(f"the invite {said.invite_id} was revoked")
    if not now_unix_s < said.expires_unix_s + CLOCK_LEEWAY_S:
        raise HandshakeRefused(
            f"its membership expired on {utc(said.expires_unix_s)}",
            hint="join again with a new invite",
        )
    return said.roles


@lru_cache(maxsize=16384)  # two signatures cost 0.25 ms, and a swarm of thousands is rechecked
def open_chain(chain: bytes, swarm: str, root_public_key: bytes) -> Membership:
    """Verify and read a chain; who shows it and when is not looked at.

    Raises:
        HandshakeRefused: It proves nothing in this swarm.
    """
    if not chain:
        raise HandshakeRefused("it shows no membership certificate", hint="ask for an invite")
    try:
        parts = codec.decode(chain, Chain, limit_bytes=CHAIN_LIMIT_BYTES)
        allowed = open_grant(parts.grant, swarm, root_public_key)
        parts.certificate.verify(kind=CERTIFICATE_KIND, swarm=swarm)
        certificate = codec.decode(
            parts.certificate.body, MembershipCertificate, limit_bytes=CHAIN_LIMIT_BYTES
        )
        holder = peer_id_of(certificate.peer_public_key)
    except HandshakeRefused:
        raise
    except ProtocolError as error:
        raise HandshakeRefused(f"its membership certificate is unusable: {error}") from error
    if parts.certificate.public_key != allowed.invite_public_key:
        raise HandshakeRefused("its certificate is not signed with the granted invite's key")
    if not set(certificate.roles) <= set(allowed.roles):
        raise HandshakeRefused("its certificate claims more roles than its invite grants")
    if certificate.expires_unix_s > allowed.expires_unix_s:
        raise HandshakeRefused("its certificate outlives its invite")
    return Membership(
        holder, allowed.invite_id, frozenset(certificate.roles), certificate.expires_unix_s
    )


def open_grant(record: Signed, swarm: str, root_public_key: bytes) -> Grant:
    """Verify and read a grant.

    Raises:
        HandshakeRefused: Signed by someone other than the root.
        SignatureError: The signature does not hold, or is for another swarm.
        DecodeError: Not a grant.
    """
    record.verify(kind=GRANT_KIND, swarm=swarm)
    if record.public_key != root_public_key or swarm_id_of(root_public_key) != swarm:
        raise HandshakeRefused("its invite was not granted by this swarm's root")
    allowed = codec.decode(record.body, Grant, limit_bytes=CHAIN_LIMIT_BYTES)
    if allowed.invite_id != invite_id_of(allowed.invite_public_key):
        raise HandshakeRefused("its invite's id does not belong to its key")
    return allowed


def utc(unix_s: float) -> str:
    """A time as people read it, e.g. `2026-11-22 16:30 UTC`; any number is taken."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"unix time {unix_s:g}"


def _sorted(roles: Collection[Role]) -> tuple[Role, ...]:
    return tuple(sorted(set(roles)))


def _base32(data: bytes) -> str:
    return base64.b32encode(codec.sha256(data)).decode().lower()[:24]
