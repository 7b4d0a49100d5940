"""Bytes from elsewhere: the same value gives the same bytes, and what does not fit is one error."""

from dataclasses import dataclass

import pytest

from helix_p2p import codec
from helix_p2p.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Old:
    name: str


@dataclass(frozen=True, slots=True)
class New:
    name: str
    more: tuple[int, ...] = (1,)


def test_more_bytes_than_allowed_are_refused_however_good_they_are() -> None:
    data = codec.encode(Old("x" * 100))
    assert codec.decode(data, Old, limit_bytes=len(data)) == Old("x" * 100)
    with pytest.raises(DecodeError, match="at most"):
        codec.decode(data, Old, limit_bytes=len(data) - 1)


@pytest.mark.parametrize("data", [b"", b"\xc1", codec.encode({"name": 3}), codec.encode([1])])
def test_bytes_of_another_type_are_one_typed_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(data, Old, limit_bytes=100)


def test_versions_overlap() -> None:
    assert codec.decode(codec.encode(Old("a")), New, limit_bytes=100) == New("a")
    assert codec.decode(codec.encode(New("a", (2,))), Old, limit_bytes=100) == Old("a")


def test_same_value_gives_the_same_bytes_in_whatever_order_it_was_made() -> None:
    assert codec.encode({"b": 1, "a": 2}) == codec.encode({"a": 2, "b": 1})
