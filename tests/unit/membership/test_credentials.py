"""Who is admitted, by which chain, until when."""

from dataclasses import replace

import pytest

from helix_p2p import codec
from helix_p2p.errors import HandshakeRefused
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.credentials import (
    ALL_ROLES,
    CERTIFICATE_KIND,
    CLOCK_LEEWAY_S,
    Chain,
    MembershipCertificate,
    Role,
    certify,
    grant,
    invite_id_of,
    is_open,
    open_swarm_id_of,
    swarm_id_of,
    verify_credentials,
)
from helix_p2p.types import PeerId

from .makers import UNIX_S, identity, peer

ROOT, INVITE, STRANGER = identity(100), identity(101), identity(102)
SWARM = swarm_id_of(ROOT.public_key)
EXPIRES = UNIX_S + 1000
GRANT = grant(ROOT, INVITE, ALL_ROLES, EXPIRES)
CHAIN = certify(INVITE, GRANT, identity(1).public_key)


def verify(
    chain: bytes = CHAIN,
    *,
    who: PeerId | None = None,
    swarm: str = SWARM,
    root: Identity = ROOT,
    now_unix_s: float = UNIX_S,
    revoked: tuple[str, ...] = (),
) -> frozenset[Role]:
    return verify_credentials(
        chain,
        peer=who or peer(1),
        swarm=swarm,
        root_public_key=root.public_key,
        now_unix_s=now_unix_s,
        revoked=revoked,
    )


def chain_with(
    body: MembershipCertificate, signer: Identity = INVITE, granted: Signed = GRANT
) -> bytes:
    certificate = signer.sign(CERTIFICATE_KIND, granted.swarm, codec.encode(body))
    return codec.encode(Chain(granted, certificate))


def test_chain_from_root_over_invite_to_peer_gives_the_granted_roles() -> None:
    assert verify() == ALL_ROLES
    few = grant(ROOT, INVITE, [Role.CLIENT], EXPIRES)
    assert verify(certify(INVITE, few, identity(1).public_key)) == {Role.CLIENT}


def test_one_invite_admits_many_peers_without_the_root() -> None:
    for number in range(5):
        chain = certify(INVITE, GRANT, identity(number).public_key)
        assert verify(chain, who=peer(number)) == ALL_ROLES


def test_certificate_of_another_peer_is_refused() -> None:
    with pytest.raises(HandshakeRefused, match="another peer"):
        verify(who=peer(2))


def test_certificate_not_signed_by_the_granted_invite_is_refused() -> None:
    body = MembershipCertificate(identity(1).public_key, (Role.PEER,), EXPIRES)
    with pytest.raises(HandshakeRefused, match="granted invite's key"):
        verify(chain_with(body, STRANGER))


def test_grant_of_another_root_is_refused() -> None:
    theirs = grant(STRANGER, INVITE, ALL_ROLES, EXPIRES)
    with pytest.raises(HandshakeRefused, match="another swarm"):
        verify(certify(INVITE, theirs, identity(1).public_key))
    forged = STRANGER.sign("grant", SWARM, GRANT.body)
    with pytest.raises(HandshakeRefused, match="not granted by this swarm's root"):
        verify(certify(INVITE, forged, identity(1).public_key))


def test_certificate_may_not_exceed_its_grant() -> None:
    few = grant(ROOT, INVITE, [Role.PEER], EXPIRES)
    key = identity(1).public_key
    more_roles = MembershipCertificate(key, (Role.PEER, Role.PLANNER), EXPIRES)
    with pytest.raises(HandshakeRefused, match="more roles"):
        verify(chain_with(more_roles, granted=few))
    longer = MembershipCertificate(key, (Role.PEER,), EXPIRES + 1)
    with pytest.raises(HandshakeRefused, match="outlives"):
        verify(chain_with(longer, granted=few))


@pytest.mark.parametrize("expires", [float("nan"), float("inf"), -1.0])
def test_expiry_that_is_no_time_admits_nobody(expires: float) -> None:
    granted = grant(ROOT, INVITE, ALL_ROLES, EXPIRES)
    body = MembershipCertificate(identity(1).public_key, (Role.PEER,), expires)
    with pytest.raises(HandshakeRefused):
        verify(chain_with(body, granted=granted))


def test_membership_expires_and_says_when() -> None:
    assert verify(now_unix_s=EXPIRES + CLOCK_LEEWAY_S - 1)
    with pytest.raises(HandshakeRefused, match=r"expired on 2027-01-15 08:16 UTC"):
        verify(now_unix_s=EXPIRES + CLOCK_LEEWAY_S)


def test_revoked_invite_admits_nobody() -> None:
    with pytest.raises(HandshakeRefused, match="revoked"):
        verify(revoked=(invite_id_of(INVITE.public_key),))
    assert verify(revoked=("0" * 16,))


def test_missing_or_broken_chain_is_refused() -> None:
    with pytest.raises(HandshakeRefused, match="no membership certificate"):
        verify(b"")
    with pytest.raises(HandshakeRefused, match="unusable"):
        verify(b"\x93garbage")
    parts = codec.decode(CHAIN, Chain, limit_bytes=4096)
    bent = replace(parts.certificate, signature=bytes(64))
    with pytest.raises(HandshakeRefused, match="signature"):
        verify(codec.encode(Chain(parts.grant, bent)))


def test_open_swarm_admits_everyone_and_is_labelled() -> None:
    swarm = open_swarm_id_of("anyone")
    assert is_open(swarm)
    assert not is_open(SWARM)
    roles = verify_credentials(
        b"", peer=peer(1), swarm=swarm, root_public_key=None, now_unix_s=UNIX_S
    )
    assert roles == ALL_ROLES
