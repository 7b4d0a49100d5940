"""What the session machines want done; the node does it with IO, the simulator in virtual time.

Always: effects are carried out in the order given. `P` is the edge's payload of one row: the
machines hand it back and never look inside. Values hold no cycles, so the collector need not look
at them (`gc=False`).
"""

from collections.abc import Sequence
from typing import Generic, NewType, TypeVar

from msgspec import Struct

from helix_p2p.session.messages import (
    Close,
    Delivered,
    Forward,
    LastStage,
    Open,
    Opened,
    Phase,
    Refused,
    Sampled,
    StageFailed,
)
from helix_p2p.session.prefixes import KvCopy
from helix_p2p.types import LayerRange, PeerId, SessionId

P = TypeVar("P")

ClientKey = NewType("ClientKey", str)
"""One client's stream at this entry peer."""

PeerMessage = Open | Opened | Close | Forward | Sampled | StageFailed


class Send(Struct, frozen=True, gc=False):
    """Send a message to a peer, which may be ourselves."""

    to: PeerId
    message: PeerMessage


class Deliver(Struct, frozen=True, gc=False):
    """Send a message to a client."""

    to: ClientKey
    message: Delivered | Refused


class OpenCache(Struct, frozen=True, gc=False):
    """Open a KV cache in the engine; keeps what it holds when the layers are the same.

    Attributes:
        begin: Positions of another open cache over the same layers, to begin with.
    """

    session: SessionId
    layers: LayerRange
    kv_tokens: int
    begin: KvCopy | None = None


class CloseCache(Struct, frozen=True, gc=False):
    """Free a KV cache in the engine."""

    session: SessionId


class StepRow(Struct, Generic[P], frozen=True, gc=False):
    """One session's positions, while they wait for a step and in it.

    Attributes:
        open: What the session's entry peer asked for; the same object in all its rows.
        position: The first of `count`.
        wanted: Whether a token is wanted after this row, on whatever stage.
        skip: How many positions of the payload come before this row's; they ran as another row.
        history: Prompt and answer so far, where the repetition penalty needs it.
    """

    open: Open
    position: int
    count: int
    wanted: bool
    payload: P
    history: tuple[int, ...] = ()
    skip: int = 0

    @property
    def session(self) -> SessionId:
        """Whose it is."""
        return self.open.session

    @property
    def attempt(self) -> int:
        """Of the session's pipelines."""
        return self.open.attempt

    @property
    def last(self) -> LastStage | None:
        """How to sample, on the last stage when a token is wanted."""
        return self.open.last if self.wanted else None


class RunStep(Struct, Generic[P], frozen=True, gc=False):
    """Run a batch in the engine; answer with `on_step_done` or `on_step_failed`.

    Attributes:
        rows: One per session; in a decode step they are columns (`decode_rows.py`), and each row is
            made when it is looked at.
        takes_tokens: The rows' payloads are token ids, not activations.
    """

    phase: Phase
    layers: LayerRange
    rows: Sequence[StepRow[P]]
    takes_tokens: bool


class SendRows(Struct, frozen=True, gc=False):
    """Send rows of the step that just ended; their activations are the frame's payload."""

    to: PeerId
    message: Forward
    rows: tuple[int, ...]


Effect = Send | Deliver | OpenCache | CloseCache | RunStep[P] | SendRows
