"""What is fuzzed: a decoder, what it reads, and what it may take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helix_p2p import codec
from helix_p2p.errors import ProtocolError
from tests.fuzz.mutation import (
    Mutator,
    mutate_tree,
)
from tests.fuzz.trees import opened, sealed

KIB, MIB = 1024, 1024 * 1024
OWN: dict[str, Any] = {"takes_s": 1.0, "memory_bytes": 64 * MIB}
"""For files that a person chose: mistakes are expected in them, attacks are not."""


def _same(data: bytes) -> Any:
    return data


@dataclass(frozen=True)
class Decoder:
    """One decoder.

    Attributes:
        name: How it is called.
        read: The decoder; what it returns goes to `again`.
        seeds: Valid inputs.
        limit_bytes: The decoder's own limit; it may take four times as much memory.
        raises: What it may raise.
        prepare: From an input to what the decoder reads.
        mutate: Makes new inputs.
        again: (bytes of a decoded value, bytes of what is decoded from those).
        takes_s: CPU seconds it may take; more than the usual only for files of one's own.
        memory_bytes: Most memory, where that is not four times the limit; likewise.
        bombs: Whether inputs are trees whose lists can be blown up.
    """

    name: str
    read: Callable[[Any], Any]
    seeds: Callable[[], list[bytes]]
    limit_bytes: int
    raises: tuple[type[Exception], ...] = (ProtocolError,)
    prepare: Callable[[bytes], Any] = _same
    mutate: Mutator = mutate_tree
    again: Callable[[Any], tuple[bytes, bytes]] | None = None
    takes_s: float = 0.1
    memory_bytes: int | None = None
    bombs: bool = False


def codec_again(value: Any) -> tuple[bytes, bytes]:
    """Canonical bytes of a value, and of what is decoded from them."""
    once = codec.encode(value)
    return once, codec.encode(codec.decode(once, type(value), limit_bytes=2 * len(once)))


def in_tree(name: str, values: Callable[[], list[object]], read: Any, **rest: Any) -> Decoder:
    """A decoder of canonical bytes with records in it."""
    rest.setdefault("again", codec_again)
    rest.setdefault("bombs", True)
    return Decoder(name, read, lambda: [opened(v) for v in values()], prepare=sealed, **rest)


def text(data: bytes) -> str:
    """As a person would paste it or an editor would show it."""
    return data.decode(errors="replace")
