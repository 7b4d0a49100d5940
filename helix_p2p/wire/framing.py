"""Frames: a fixed prefix, a message, and raw payload bytes that are never copied into it.

    0       2        4               8               12
    ├ "hx" ─┼ number ┼ message bytes ┼ payload bytes ┼ message … ┼ payload …

All integers are big-endian and unsigned. Activations, files and JSON travel as payload beside the
message, so that a tensor is written straight from its memory.

Always: sizes are checked before anything is allocated; a message of an unknown number or a broken
one gives `DecodeError`, after which the stream is of no use any more.
"""

import struct
from dataclasses import dataclass

from helix_p2p import codec
from helix_p2p.errors import DecodeError
from helix_p2p.wire.registry import NUMBER_OF_TYPE, TYPE_OF_NUMBER, Message

MAGIC = b"hx"
PREFIX = struct.Struct(">2sHII")
PREFIX_BYTES = PREFIX.size
MESSAGE_LIMIT_BYTES = 2 * 1024 * 1024
"""A plan of a thousand peers is under 1 MiB; a prompt of 128k tokens under 700 kB."""
PAYLOAD_LIMIT_BYTES = 64 * 1024 * 1024
"""A prefill chunk of 256 tokens at d_model 16384 in float32 is 16 MiB."""

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first twelve bytes of a frame, checked."""

    number: int
    message_bytes: int
    payload_bytes: int


def encode_frame(message: Message, payload: Buffer = b"") -> tuple[Buffer, ...]:
    """A message and its payload as buffers to be written one after another."""
    body = codec.encode(message)
    prefix = PREFIX.pack(MAGIC, NUMBER_OF_TYPE[type(message)], len(body), _size(payload))
    return (prefix + body, payload) if _size(payload) else (prefix + body,)


def decode_prefix(data: bytes, *, payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES) -> Prefix:
    """Read the first `PREFIX_BYTES` of a frame.

    Args:
        data: So many bytes.
        payload_limit_bytes: At most the protocol's.

    Raises:
        DecodeError: Not a frame, an unknown message, or larger than allowed.
    """
    magic, number, message_bytes, payload_bytes = PREFIX.unpack(data)
    if magic != MAGIC:
        raise DecodeError("not a helix-p2p frame")
    if number not in TYPE_OF_NUMBER:
        raise DecodeError(f"unknown message number {number}")
    if message_bytes > MESSAGE_LIMIT_BYTES or payload_bytes > payload_limit_bytes:
        raise DecodeError(f"a frame of {message_bytes} + {payload_bytes} bytes is over the limit")
    return Prefix(number, message_bytes, payload_bytes)


def decode_message(prefix: Prefix, body: Buffer) -> Message:
    """Read the message behind a prefix.

    Raises:
        DecodeError: The bytes are not a message of that number.
    """
    return codec.decode(body, TYPE_OF_NUMBER[prefix.number], limit_bytes=MESSAGE_LIMIT_BYTES)


def _size(buffer: Buffer) -> int:
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
