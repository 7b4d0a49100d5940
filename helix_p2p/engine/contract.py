"""What a peer's engine does for the stage service: load slices, hold KV caches, run batches.

Always: methods marked *engine thread* are called from one thread only; `prepare` may run beside
them. Activations are CPU tensors `[tokens, d_model]`, contiguous, in the wire's dtype. Nothing here
knows of peers, routes or sockets; sessions are opaque keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from helix_p2p.cluster.model import ModelSpec
from helix_p2p.session.messages import Sampling
from helix_p2p.session.prefixes import KvCopy
from helix_p2p.types import LayerRange, SessionId


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Choose a token after a row's last position.

    Attributes:
        sampling: How.
        position: Absolute position of the token to be chosen; with the seed it fixes the chance.
        history: Prompt and answer so far; empty unless the repetition penalty needs it.
    """

    sampling: Sampling
    position: int
    history: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class StepRow:
    """One session's part of a batch.

    Attributes:
        session: Whose KV cache.
        position: First absolute position; the cache holds or is about to hold all before it.
        count: Positions in this row; 1 in decode.
        sample: Set on the last stage when a token is wanted.
    """

    session: SessionId
    position: int
    count: int
    sample: SampleRequest | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a batch gives.

    Attributes:
        hidden: `[sum(counts), d_model]` for the next stage; None on the last stage.
        tokens: One per row that asked to sample, in row order; None for the others.
    """

    hidden: torch.Tensor | None
    tokens: tuple[int | None, ...] = ()


class PreparedLayers(Protocol):
    """Weights read into memory and not yet part of the engine."""

    @property
    def layers(self) -> LayerRange:
        """Which."""


class Engine(Protocol):
    """Runs slices of one model on one device."""

    @property
    def spec(self) -> ModelSpec:
        """The model's sizes as resident here."""

    @property
    def held(self) -> frozenset[int]:
        """Layers that are loaded."""

    @property
    def kv_capacity_token_layers(self) -> int:
        """KV room with the layers now held, in tokens × layers."""

    def prepare(self, layers: LayerRange) -> PreparedLayers:
        """Read the weights of `layers` that are not held yet; any thread.

        Raises:
            ModelError: Files are missing or corrupt.
            OutOfMemory: They do not fit.
        """

    def install(self, prepared: PreparedLayers) -> None:
        """Make prepared layers part of the engine; engine thread."""

    def retain(self, layers: LayerRange) -> None:
        """Drop every held layer outside `layers`; engine thread."""

    def open(
        self,
        session: SessionId,
        layers: LayerRange,
        kv_tokens: int,
        begin: KvCopy | None = None,
    ) -> None:
        """Reserve a KV cache of `kv_tokens` positions over `layers`; engine thread.

        Opening a session again with the same layers keeps what its cache holds.

        Args:
            session: Whose.
            layers: Held here.
            kv_tokens: Most positions.
            begin: Positions of another session's cache that this one begins with.

        Raises:
            Busy: There is no room, or what it should begin with is not there.
            NotServing: Some of the layers are not held.
        """

    def close(self, session: SessionId) -> None:
        """Free a session's cache; unknown sessions are ignored; engine thread."""

    def step(
        self,
        layers: LayerRange,
        rows: Sequence[StepRow],
        *,
        tokens: Sequence[int] | None = None,
        hidden: torch.Tensor | None = None,
    ) -> StepResult:
        """Run rows of one phase through `layers`; engine thread.

        Args:
            layers: The same for all rows and for their sessions.
            rows: At least one.
            tokens: Ids, sum(counts) of them, when `layers` starts at 0.
            hidden: `[sum(counts), d_model]` otherwise.

        Raises:
            PoisonedActivation: `hidden` has a wrong shape or is not finite.
            OutOfMemory: The device has no room for the batch.
        """
