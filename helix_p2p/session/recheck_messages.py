"""What peers say to each other when an entry peer has a stage's work checked (docs/adr/0019).

    entry peer ── GetTrace ──▶ stage ── TraceReply ──▶ entry peer
    entry peer ── Rerun ──▶ auditor ── RerunReply ──▶ entry peer

Always: a re-run is of rows as they ran, in a cache of its own; no running session is touched.
"""

from dataclasses import dataclass
from typing import Annotated

from helix_p2p.codec import at_most
from helix_p2p.session.messages import MOST_ROWS, Column, Sampling
from helix_p2p.types import LayerRange, SessionId


@dataclass(frozen=True, slots=True)
class GetTrace:
    """The entry peer asks a stage for the beginning of what went into or out of a session.

    Attributes:
        session: As the stages call it.
        attempt: Of the pipeline.
        output: What the stage sent, not what it took.
        positions: How many, from the first.
    """

    session: SessionId
    attempt: int
    output: bool
    positions: int


@dataclass(frozen=True, slots=True)
class TraceReply:
    """The rows as they ran; the payload is `hidden: [sum(counts), d_model]`.

    Attributes:
        counts: Positions of each row.
        wanted: Whether a token was wanted after the row.
        dtype: Of the payload.
        held_in: What the weights are held in, e.g. `bf16 int8`.
    """

    counts: Column
    wanted: Annotated[tuple[bool, ...], at_most(MOST_ROWS)]
    dtype: str
    held_in: str


@dataclass(frozen=True, slots=True)
class Rerun:
    """Run these rows through these layers, in a cache of their own; the payload is their input.

    Attributes:
        layers: Which.
        counts: Positions of each row, one row after another from position 0.
        wanted: Whether the row's last position is to be sampled, on a last stage.
        dtype: Of the payload.
        sampling: How, on a last stage.
    """

    layers: LayerRange
    counts: Column
    wanted: Annotated[tuple[bool, ...], at_most(MOST_ROWS)]
    dtype: str
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class RerunReply:
    """What came out: activations in the payload, or on a last stage the wanted rows' tokens.

    Attributes:
        tokens: One per wanted row.
        dtype: Of the payload; empty without one.
        held_in: What the weights are held in.
    """

    tokens: Column
    dtype: str
    held_in: str
