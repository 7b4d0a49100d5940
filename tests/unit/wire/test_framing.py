import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_p2p.errors import DecodeError
from helix_p2p.session.messages import Cancel, Forward, Phase
from helix_p2p.types import SessionId
from helix_p2p.wire.framing import (
    MESSAGE_LIMIT_BYTES,
    PREFIX,
    PREFIX_BYTES,
    decode_message,
    decode_prefix,
    encode_frame,
)
from helix_p2p.wire.registry import NUMBER_OF_TYPE, TYPE_OF_NUMBER


def test_frame_round_trips_with_payload_left_in_place():
    message = Forward(
        Phase.DECODE, (SessionId(b"s" * 16),), (1,), (7,), (1,), (False,), dtype="f32"
    )
    payload = bytearray(b"activations")
    head, tail = encode_frame(message, payload)
    assert tail is payload
    prefix = decode_prefix(head[:PREFIX_BYTES])
    assert prefix.payload_bytes == len(payload)
    assert decode_message(prefix, head[PREFIX_BYTES:]) == message


def test_frame_without_payload_is_one_buffer():
    assert len(encode_frame(Cancel(SessionId(b"x" * 16)))) == 1


def test_every_message_has_one_number():
    assert len(NUMBER_OF_TYPE) == len(TYPE_OF_NUMBER)


@pytest.mark.parametrize(
    "prefix",
    [
        PREFIX.pack(b"no", 33, 1, 0),
        PREFIX.pack(b"hx", 31, 1, 0),
        PREFIX.pack(b"hx", 33, MESSAGE_LIMIT_BYTES + 1, 0),
        PREFIX.pack(b"hx", 33, 1, 2**31),
    ],
)
def test_prefix_out_of_bounds_is_refused_before_anything_is_read(prefix):
    with pytest.raises(DecodeError):
        decode_prefix(prefix)


@given(st.sampled_from(sorted(TYPE_OF_NUMBER)), st.binary(max_size=200))
def test_arbitrary_bytes_give_a_message_or_one_typed_error(number, body):
    prefix = decode_prefix(PREFIX.pack(b"hx", number, len(body), 0))
    with contextlib.suppress(DecodeError):
        decode_message(prefix, body)
