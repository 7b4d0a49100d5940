"""What neighbours and clients send: frames, and the activations in them."""

from typing import Any

import msgspec

from helix_p2p import codec
from helix_p2p.errors import from_wire
from helix_p2p.membership import messages as m
from helix_p2p.net.channel import HELLO_LIMIT_BYTES
from helix_p2p.session import messages as s
from helix_p2p.wire.framing import (
    MESSAGE_LIMIT_BYTES,
    PREFIX,
    PREFIX_BYTES,
    decode_message,
    decode_prefix,
)
from helix_p2p.wire.registry import NUMBER_OF_TYPE
from tests.fuzz import seeds
from tests.fuzz.decoder import Decoder, codec_again
from tests.fuzz.seeds import MODEL
from tests.fuzz.trees import opened, sealed


def frame_of(data: bytes) -> bytes:
    """A frame from `{"number", "message", "payload"}`; other bytes are a frame as they stand."""
    try:
        tree = msgspec.msgpack.decode(sealed(data))
        body = codec.encode(tree["message"])
        head = PREFIX.pack(b"hx", tree["number"], len(body), len(tree["payload"]))
        return bytes(head + body + tree["payload"])
    except Exception:  # noqa: BLE001 - whatever is no such tree
        return data


def framed(value: Any, payload: bytes = b"") -> bytes:
    """A message as the tree that `frame_of` takes."""
    number = NUMBER_OF_TYPE[type(value)]
    return codec.encode(
        {"message": msgspec.msgpack.decode(opened(value)), "number": number, "payload": payload}
    )


def read_frame(data: bytes) -> Any:
    """As far as a message of any kind is checked by itself."""
    if len(data) < PREFIX_BYTES:
        return None
    prefix = decode_prefix(data[:PREFIX_BYTES])
    message = decode_message(prefix, memoryview(data)[PREFIX_BYTES:][: prefix.message_bytes])
    match message:
        case s.Forward():
            s.check_forward(message)
        case s.Sampled():
            s.check_sampled(message)
        case m.ErrorReply() | s.Failure():
            str(from_wire(message.code, message.message, message.retry_after_s))
        case m.Hello():
            if len(data) > HELLO_LIMIT_BYTES:
                return None
    return message


def _read_activations(data: bytes) -> Any:
    from helix_p2p.node.steps import rows_of

    message = read_frame(data)
    if isinstance(message, s.Forward):
        rows_of(message, memoryview(data)[PREFIX_BYTES + len(codec.encode(message)) :], MODEL)
    return message


def _activation_seeds() -> list[bytes]:
    from helix_p2p.engine.wireformat import DTYPES

    found = []
    for name, dtype in DTYPES.items():
        for rows, count, phase in (
            (1, 1, s.Phase.DECODE),
            (3, 1, s.Phase.DECODE),
            (1, 5, s.Phase.PREFILL),
        ):
            payload = b"\0\1" * (rows * count * MODEL.d_model * dtype.itemsize // 2)
            found.append(framed(seeds.forward(phase, rows, count, name), payload))
    return found


DECODERS = (
    Decoder(
        "frame",
        read_frame,
        lambda: [framed(v) for v in (*seeds.member_messages(), *seeds.session_messages())],
        MESSAGE_LIMIT_BYTES,
        prepare=frame_of,
        again=codec_again,
        bombs=True,
    ),
    Decoder(
        "activations",
        _read_activations,
        _activation_seeds,
        MESSAGE_LIMIT_BYTES,
        prepare=frame_of,
        again=codec_again,
    ),
)
