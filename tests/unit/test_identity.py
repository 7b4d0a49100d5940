"""A signature holds for one kind of record, in one swarm, of this protocol, and nowhere else."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from helix_p2p import codec
from helix_p2p.errors import SignatureError
from helix_p2p.identity import SIGNATURE_DOMAIN, Identity

SEED = b"s" * 32
SIGNED = Identity(SEED).sign("plan", "swarm", b"body")


def test_signature_holds_for_what_was_signed() -> None:
    SIGNED.verify(kind="plan", swarm="swarm")


@pytest.mark.parametrize(
    ("kind", "swarm", "body"),
    [("grant", "swarm", b"body"), ("plan", "other", b"body"), ("plan", "swarm", b"bodY")],
)
def test_signature_cannot_be_moved_to_another_kind_swarm_or_body(
    kind: str, swarm: str, body: bytes
) -> None:
    moved = replace(SIGNED, kind=kind, swarm=swarm, body=body)
    with pytest.raises(SignatureError, match="does not hold"):
        moved.verify(kind=kind, swarm=swarm)


def test_record_of_another_kind_or_swarm_is_refused_by_name() -> None:
    with pytest.raises(SignatureError, match="expected 'grant'"):
        SIGNED.verify(kind="grant", swarm="swarm")
    with pytest.raises(SignatureError, match="another swarm"):
        SIGNED.verify(kind="plan", swarm="other")


def test_what_the_same_key_signs_for_another_protocol_is_no_record_of_ours() -> None:
    """libp2p signs with the node's identity key too; the domain keeps the two apart."""
    bare = codec.encode(("plan", "swarm", b"body"))
    assert not bare.startswith(SIGNATURE_DOMAIN)
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    with pytest.raises(SignatureError):
        replace(SIGNED, signature=key.sign(bare)).verify(kind="plan", swarm="swarm")
    replace(SIGNED, signature=key.sign(SIGNATURE_DOMAIN + bare)).verify(kind="plan", swarm="swarm")


def test_keys_and_signatures_of_a_wrong_length_are_typed_errors() -> None:
    for bent in (replace(SIGNED, public_key=b"k"), replace(SIGNED, signature=b"")):
        with pytest.raises(SignatureError):
            bent.verify(kind="plan", swarm="swarm")
