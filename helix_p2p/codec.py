"""Typed values to canonical bytes and back.

Everything that is signed, hashed, stored or sent passes here. The encoding is MessagePack of the
dataclass's fields as a map, keys in the order of declaration (sorted for plain dictionaries), so
the same value always gives the same bytes. Decoding checks the size before it allocates and the
type of every field; bytes that do not fit give one `DecodeError`, never another exception.

A list costs up to 24 bytes of memory per byte of input (a pair of nils), so lists state how long
they may be: `Annotated[tuple[…], at_most(n)]` is refused unread beyond that.

Unknown fields are ignored, and fields with defaults may be absent: that is how versions overlap.
"""

import hashlib
from typing import Any, TypeVar

import msgspec

from helix_p2p.errors import DecodeError

T = TypeVar("T")


def at_most(length: int) -> msgspec.Meta:
    """How long a list, text or byte string may be that is decoded into an annotated field."""
    return msgspec.Meta(max_length=length)


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def encode(value: object) -> bytes:
    """The canonical bytes of a dataclass, struct or plain value."""
    return _encoder.encode(value)


def decode(data: bytes | bytearray | memoryview, of: type[T], *, limit_bytes: int) -> T:
    """Read a value of type `of`.

    Args:
        data: Bytes that came from elsewhere.
        of: A dataclass, or any type that msgspec can check.
        limit_bytes: More than this is refused unread.

    Raises:
        DecodeError: Too long, not MessagePack, or not of this type.
    """
    if len(data) > limit_bytes:
        raise DecodeError(f"{_name(of)}: {len(data)} bytes, at most {limit_bytes} are taken")
    decoder = _decoders.get(of)
    if decoder is None:
        decoder = _decoders[of] = msgspec.msgpack.Decoder(of)
    try:
        value: T = decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError) as error:
        raise DecodeError(f"{_name(of)}: {error}") from error
    return value


def sha256(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def _name(of: object) -> str:
    return getattr(of, "__name__", str(of))
