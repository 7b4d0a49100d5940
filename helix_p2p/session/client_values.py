"""What a client's session is given, and what it wants done; see `session/client.py`.

Always: values only; effects are carried out in the order given.
"""

from dataclasses import dataclass, field

from helix_p2p.errors import HelixError
from helix_p2p.session.messages import Cancel, FinishReason, Generate, Sampling
from helix_p2p.types import LayerRange, PeerId

Pipeline = tuple[tuple[PeerId, LayerRange], ...]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What is wanted, independent of who serves it.

    Attributes:
        prompt: Token ids, at least one.
        max_new_tokens: At least one.
        eos: Any of these ends the answer.
        sampling: How tokens are chosen.
        ignore_eos: Go on to max_new_tokens whatever comes.
        vocab_size: Delivered ids must be below it.
        trace: Say with each token where its time went.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    vocab_size: int
    eos: tuple[int, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    ignore_eos: bool = False
    trace: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the caller waits, and how much trouble it bears.

    Attributes:
        first_token_s: From the start to the first token; None waits as long as there is hope.
        between_tokens_s: From one token to the next, failures included.
        total_s: For the whole answer.
        first_silence_s: An entry peer that gives no first token this long is left for another. A
            long prompt on slow peers takes tens of seconds, and waiting in its queue counts.
        silence_s: Likewise between two deliveries. Whether the peer lives at all is found out in
            seconds (by the streams); these two are for one that lives and gives nothing.
        prefill_s_per_token: Added to both for each token of prompt and answer: a pipeline that is
            repaired computes them all again, at about 10 ms a token on a slow CPU.
        patience_s: Trouble without a single new token may last this long. A new planner takes up
            to 26 s (docs/adr/0004), and then layers may have to be loaded.
        refusals: So many times without a new token may peers say that there is no room.
        attempts: So many attempts may be made without a new token.
        pause_s: First pause when every known peer was tried; grows up to `pause_limit_s`.
        pause_limit_s: Longest pause of the client's own making.
        retry_after_limit_s: Longest pause that a peer can ask for.
    """

    first_token_s: float | None = None
    between_tokens_s: float | None = None
    total_s: float | None = None
    first_silence_s: float = 120.0
    silence_s: float = 45.0
    prefill_s_per_token: float = 0.02
    patience_s: float = 90.0
    refusals: int = 4
    attempts: int = 64
    pause_s: float = 0.1
    pause_limit_s: float = 3.0
    retry_after_limit_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to an entry peer; a failure comes back as `on_lost`."""

    peer: PeerId
    message: Generate | Cancel


@dataclass(frozen=True, slots=True)
class Tokens:
    """New tokens for the caller; the first is number `first_index` of the answer."""

    first_index: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RefreshView:
    """Something failed: ask the swarm for its plan and members again.

    Attributes:
        crowded: Nobody who is known had room, or could serve at all.
    """

    crowded: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """The last effect: a finish, or why there is none."""

    finished: FinishReason | None = None
    error: HelixError | None = None


Effect = Send | Tokens | RefreshView | Ended
