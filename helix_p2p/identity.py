"""Who signs: Ed25519 keys, libp2p peer ids, and signatures that cannot be moved elsewhere.

A peer id is base58(`00 24 08 01 12 20` ‖ public key): libp2p's identity multihash of the protobuf
public key (github.com/libp2p/specs, peer-ids). go-libp2p and py-libp2p derive the same one.

Always: a signature covers a domain, the record's kind, the swarm and the body, so a signed plan is
never a signed announcement and never one of another swarm.
"""

from dataclasses import dataclass
from functools import lru_cache

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from helix_p2p import codec
from helix_p2p.errors import SignatureError
from helix_p2p.remembered import remembered
from helix_p2p.types import PeerId

SIGNATURE_DOMAIN = b"helix-p2p/1\x00"
ONCE_UP_TO_BYTES = 2048
CHECKED_KEPT = 8192
"""The same records come again and again (from several members, from the DHT, in each plan), and a
check takes 100 µs; so the latest that held are remembered, all bytes of them, 16 MiB at most."""
PUBLIC_KEY_BYTES = 32
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
_LIBP2P_PRIVATE_KEY_PREFIX = bytes.fromhex("08011240")


@dataclass(frozen=True, slots=True)
class Signed:
    """A body under a signature; the body's bytes are kept as they were signed.

    Attributes:
        kind: What the body is, e.g. `announcement`, `plan`.
        swarm: The swarm id it belongs to.
        body: Canonical bytes of the value.
        public_key: The signer's Ed25519 public key, 32 bytes.
        signature: 64 bytes over domain, kind, swarm and body.
    """

    kind: str
    swarm: str
    body: bytes
    public_key: bytes
    signature: bytes

    def __hash__(self) -> int:
        """Of the signature alone: equal records share it, and memories are asked all the time."""
        return hash(self.signature)

    @property
    def signer(self) -> PeerId:
        """The signer's peer id."""
        return peer_id_of(self.public_key)

    def verify(self, *, kind: str, swarm: str) -> None:
        """Check kind, swarm and signature.

        Raises:
            SignatureError: Any of them is not as expected.
        """
        if self.kind != kind:
            raise SignatureError(f"signed as {self.kind[:32]!r}, expected {kind!r}")
        if self.swarm != swarm:
            raise SignatureError(f"{kind} belongs to another swarm ({self.swarm[:16]})")
        message = _message(kind, swarm, self.body)
        check = _check_once if len(message) <= ONCE_UP_TO_BYTES else _check
        try:
            check(self.public_key, self.signature, message)
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(f"the signature of this {kind} does not hold") from error


def _check(public_key: bytes, signature: bytes, message: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)


_check_once = remembered(CHECKED_KEPT)(_check)
"""Likewise, but what held is remembered; a failure is an exception, and those are not kept."""


class Identity:
    """A private key and what follows from it."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError("an Ed25519 seed has 32 bytes")
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.peer_id = peer_id_of(self.public_key)

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes; whoever has them is this peer."""
        return self._seed

    def sign(self, kind: str, swarm: str, body: bytes) -> Signed:
        """Put `body` under this identity's signature."""
        signature = self._key.sign(_message(kind, swarm, body))
        return Signed(kind, swarm, body, self.public_key, signature)

    def to_libp2p(self) -> bytes:
        """The key as libp2p's daemon reads it from its identity file."""
        return _LIBP2P_PRIVATE_KEY_PREFIX + self._seed + self.public_key


@lru_cache(maxsize=16384)  # base58 in Python costs 46 µs, and every record's signer is asked for
def peer_id_of(public_key: bytes) -> PeerId:
    """The libp2p peer id of an Ed25519 public key (32 bytes).

    Raises:
        SignatureError: The key has another length.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise SignatureError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


@lru_cache(maxsize=16384)
def public_key_of(peer: PeerId) -> bytes:
    """The Ed25519 public key that a peer id stands for.

    Raises:
        ValueError: It is no such peer id.
    """
    data = base58.b58decode(peer)
    if data[: len(_PEER_ID_PREFIX)] != _PEER_ID_PREFIX or len(data) != 38:
        raise ValueError(f"{peer[:60]!r} is not the peer id of an Ed25519 key")
    return data[len(_PEER_ID_PREFIX) :]


def _message(kind: str, swarm: str, body: bytes) -> bytes:
    return SIGNATURE_DOMAIN + codec.encode((kind, swarm, body))
