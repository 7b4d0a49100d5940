"""One session on a stage: how far its cache is filled, and which row may come next.

Always: `filled` never goes back within an attempt, and leaves no gap.
"""

from dataclasses import dataclass, field

from msgspec import Struct

from helix_p2p.errors import ProtocolError
from helix_p2p.session.messages import Open, Phase
from helix_p2p.types import PeerId


class Way(Struct, frozen=True, eq=False, gc=False):
    """What sessions share that come from one peer, run on the same layers and go on to one peer.

    Attributes:
        previous: Who sends their rows.
        span: Their layers' start and end.
        next: Who is sent their outputs; None on the last stage.
    """

    previous: PeerId
    span: tuple[int, int]
    next: PeerId | None

    @property
    def takes_tokens(self) -> bool:
        """Whether the stage is the first one."""
        return self.span[0] == 0


@dataclass(slots=True, eq=False)
class StageSession:
    """One session on this stage.

    A decode step looks at this record for each of its rows and at nothing else of the session:
    with thousands of sessions each further object is a miss of the processor's cache.

    Attributes:
        open: What its entry peer asked for.
        way: Between which peers and over which layers it runs.
        heard_s: When its last row came; the ledger is told when it asks, not per row.
        needs_history: Whether its sampling looks at what came before.
        reused: Positions that the cache began with; the first row may come anywhere in them.
        decoding: Whether its last row was a decode step.
        decoded: Position of its last row, where another decode row simply goes on after it; None
            where the next row wants a closer look.
        history: Prompt and answer so far, where needed.
        attempt: Of its pipelines.
        kv_tokens: Most positions.
    """

    open: Open
    way: Way
    heard_s: float
    needs_history: bool
    reused: int = 0
    decoding: bool = False
    decoded: int | None = None
    history: tuple[int, ...] = ()
    attempt: int = field(init=False)
    kv_tokens: int = field(init=False)
    _filled: int = 0

    def __post_init__(self) -> None:
        self.attempt = self.open.attempt
        self.kv_tokens = self.open.kv_tokens

    @property
    def filled(self) -> int:
        """Positions whose K and V are written or on their way through a step."""
        return self._filled if self.decoded is None else self.decoded + 1

    def begin_at(self, position: int) -> None:
        """Its first row comes; what is before it was there already."""
        self._filled = position

    def fill(self, filled: int, now_s: float) -> None:
        """A row was taken; the cache will be filled up to its end."""
        self._filled = filled
        self.heard_s = now_s
        goes_on = self.decoding and filled < self.kv_tokens
        self.decoded = filled - 1 if goes_on else None

    def check_row(
        self, phase: Phase, takes_tokens: bool, position: int, count: int, *, prefill_waits: bool
    ) -> None:
        """Take a row that is not one more of what runs already, unless no honest peer sends it.

        Args:
            phase: Of the frame.
            takes_tokens: Whether the frame carries token ids.
            position: The row's first.
            count: Of the row's positions.
            prefill_waits: Whether earlier rows of the session's prefill are yet to run.

        Raises:
            ProtocolError: It leaves a gap, goes beyond what is reserved, or its kind is wrong.
        """
        if position > self.filled:
            raise ProtocolError(f"positions from {self.filled} on are missing")
        if position + count > self.kv_tokens:
            raise ProtocolError(f"{self.kv_tokens} positions are reserved, and no more")
        if takes_tokens != self.way.takes_tokens:
            raise ProtocolError("a first stage takes tokens, every other one activations")
        if phase is Phase.DECODE and prefill_waits:
            raise ProtocolError("a decode step came before its prefill was done")
        if phase is Phase.PREFILL and self.decoding:
            raise ProtocolError("prefill came after a decode step")
        self.decoding = phase is Phase.DECODE
