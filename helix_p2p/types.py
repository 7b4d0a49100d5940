"""The small words that every package shares: identifiers and the half-open layer range.

Nothing here does IO or knows of any other module.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NewType

PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58, `12D3KooW…` for the Ed25519 keys we use."""

SessionId = NewType("SessionId", bytes)
"""16 random bytes: a client's name for a generation at its entry peer, and, drawn anew by the entry
peer for each pipeline, that pipeline's name on its stages."""

Epoch = NewType("Epoch", int)
"""A plan's version; see docs/adr/0004."""

SLOT_S = 30
"""Length of an epoch slot on the wall clock; like the next two, part of the protocol."""
EPOCHS_PER_SLOT = 64
"""Room for a burst of plans within one slot."""
SLOTS_AHEAD = 2
"""How far ahead of the local slot an epoch may be; twice this is the clock skew we live with."""

SESSION_ID_BYTES = 16

MOST_TOKENS = 131_072
"""Prompt and answer together; longer contexts are served up to here. A message of 2 MiB with so
many token ids takes under 8 MiB when it is decoded."""
MOST_LAYERS = 1024
"""The deepest models in use have 126 layers."""
MOST_PEERS = 10_000
"""That one plan places, or one message names; so many fit into a plan's mebibyte."""
MOST_CELLS = 256
"""That one swarm has."""
MOST_EDGES = 3 * MOST_PEERS
"""That carry flow in one plan; the planner's flows have fewer than two for each peer."""


@dataclass(frozen=True, slots=True, order=True)
class LayerRange:
    """Decoder layers `[start, end)`, zero-based and half-open; never empty, never negative."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"not a layer range: [{self.start}, {self.end})")

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.end))

    def __str__(self) -> str:
        return f"[{self.start}, {self.end})"

    def contains(self, other: "LayerRange") -> bool:
        """Whether `other` lies wholly inside this range."""
        return self.start <= other.start and other.end <= self.end

    def overlap(self, other: "LayerRange") -> int:
        """How many layers both hold."""
        return max(0, min(self.end, other.end) - max(self.start, other.start))
