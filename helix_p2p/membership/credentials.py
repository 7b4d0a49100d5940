"""Who may be part of a swarm: its root key, grants, membership certificates.

    root key ──signs──▶ Grant (an invite's public key, roles, expiry)
    invite's private key ──signs──▶ MembershipCertificate (a peer's public key, roles ⊆, expiry ≤)

The invite's private key travels in the invite, so one invite admits many peers while the root is
offline, and the root can still revoke it by its id. An open swarm has no root: everyone has every
role, and its id says so (`open-…`).

Always: a certificate never gives more than its grant, neither roles nor time; both signatures
and the bindings to root, invite, peer and swarm are checked each time a chain is verified.
"""

import base64
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from helix_p2p import codec
from helix_p2p.errors import HandshakeRefused, ProtocolError
from helix_p2p.identity import Identity, Signed, peer_id_of
from helix_p2p.types import PeerId

GRANT_KIND = "grant"
CERTIFICATE_KIND = "certificate"
REVOCATIONS_KIND = "revocations"
CHAIN_LIMIT_BYTES = 2048
"""A chain has about 700 bytes, and must fit into an announcement of 10 KiB."""
REVOCATIONS_LIMIT_BYTES = 8 * 1024
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
class Revocations:
    """Invites that no longer count; the list with the highest serial holds."""

    serial: int
    invite_ids: tuple[str, ...]


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
    """What `peer` may do in `swarm`.

    Args:
        chain: As the peer showed it; ignored in an open swarm.
        peer: Authenticated by the transport, or a record's signer.
        swarm: Ours.
        root_public_key: Ours; None in an open swarm.
        now_unix_s: Wall clock.
        revoked: Ids of invites that no longer count.

    Raises:
        HandshakeRefused: The chain does not prove membership; the message says why.
    """
    if root_public_key is None:
        return ALL_ROLES
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
    if holder != peer:
        raise HandshakeRefused(f"its certificate belongs to another peer ({holder})")
    if allowed.invite_id in revoked:
        raise HandshakeRefused(f"the invite {allowed.invite_id} was revoked")
    if not set(certificate.roles) <= set(allowed.roles):
        raise HandshakeRefused("its certificate claims more roles than its invite grants")
    if certificate.expires_unix_s > allowed.expires_unix_s:
        raise HandshakeRefused("its certificate outlives its invite")
    if not now_unix_s < certificate.expires_unix_s + CLOCK_LEEWAY_S:
        raise HandshakeRefused(
            f"its membership expired on {utc(certificate.expires_unix_s)}",
            hint="join again with a new invite",
        )
    return frozenset(certificate.roles)


def revoke(root: Identity, serial: int, invite_ids: Collection[str]) -> Signed:
    """The root's list of revoked invites; it replaces every list with a lower serial."""
    body = Revocations(serial, tuple(sorted(set(invite_ids))))
    return root.sign(REVOCATIONS_KIND, swarm_id_of(root.public_key), codec.encode(body))


def open_revocations(record: Signed, swarm: str, root_public_key: bytes) -> Revocations:
    """Verify and read a list of revoked invites.

    Raises:
        SignatureError: The signature does not hold, or is for another swarm.
        HandshakeRefused: Signed by someone other than the root.
        DecodeError: Not such a list.
    """
    record.verify(kind=REVOCATIONS_KIND, swarm=swarm)
    if record.public_key != root_public_key:
        raise HandshakeRefused("the list of revoked invites is not signed by the swarm's root")
    return codec.decode(record.body, Revocations, limit_bytes=REVOCATIONS_LIMIT_BYTES)


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
