"""One generation at its entry peer: what was asked, what is known so far, where it runs.

Always: `tokens` is the prompt followed by the answer and only ever grows; each pipeline that is
opened has a higher `attempt` and a new `name` (`pipelines.py`). The client's session id goes no
further than this peer: names on stages are nobody's to guess or to squat.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf

from helix_p2p.errors import HelixError
from helix_p2p.routing.route import Route
from helix_p2p.session.effects import ClientKey
from helix_p2p.session.messages import FinishReason, Generate, Sampling
from helix_p2p.types import PeerId, SessionId


@dataclass(frozen=True, slots=True)
class EntryLimits:
    """Bounds of one entry peer.

    Attributes:
        waiting_sessions: Generations that wait for a pipeline, of all clients together.
        sessions_per_client: Waiting and running, of one client identity.
        starts_per_s: Of one client identity, in the long run.
        prefill_s_per_token: Added to a deadline for each token that is fed before the next one
            can come; a slow CPU peer needs about 10 ms.
        repairs: New routes without a single new token in between.
        reuse_prefixes: Whether stages may begin with what they kept of prompts that began alike.
    """

    waiting_sessions: int = 256
    sessions_per_client: int = 128
    starts_per_s: float = 64.0
    waiting_s: float = 30.0
    prefill_chunk_tokens: int = 256
    decode_batch: int = 64
    open_deadline_s: float = 5.0
    token_deadline_s: float = 20.0
    prefill_s_per_token: float = 0.02
    repairs: int = 8
    reuse_prefixes: bool = True


@dataclass(slots=True)
class EntryStats:
    """Counters since the start."""

    accepted: int = 0
    refused: int = 0
    finished: int = 0
    cancelled: int = 0
    tokens: int = 0
    repairs: int = 0


class State(Enum):
    """In the queue, reserving its stages, or giving tokens."""

    WAITING = auto()
    OPENING = auto()
    RUNNING = auto()


_UNNAMED = SessionId(b"")
GenerationKey = tuple[ClientKey, SessionId]


@dataclass(slots=True)
class Generation:
    """A generation's state; only the entry machine and its pipelines change it.

    Attributes:
        client: The stream that gets the tokens.
        identity: Whose it is, for fairness.
        request: As it came.
        arrival: Order among all generations of this entry peer.
        patience_s: While it waits: when it is refused.
        expires_s: When its client gives up; infinite when it never does.
        tokens: Prompt and answer so far.
        deadline_s: While it opens or runs: when its pipeline counts as dead.
        name: What the stages of its latest pipeline call it.
        route: The pipeline it is on; empty while it waits.
        peers: Peers of that pipeline, in order.
        opened: Stages that reserved their room in this attempt.
        repairs: New routes since the last token.
        interrupted: Whether it ran and lost its pipeline; it goes before those that never ran.
        announce: Whether the client is yet to be told of the pipeline.
        trouble: Why it is not running, if something failed.
        chain: Hashes of its tokens' whole blocks, as far as they were needed.
        reused: Positions that every stage of its pipeline has from earlier sessions.
        fed: Tokens that its pipeline was fed before the first one that it gave.
    """

    client: ClientKey
    identity: PeerId
    request: Generate
    arrival: int
    patience_s: float
    tokens: list[int]
    expires_s: float = inf
    deadline_s: float = 0.0
    state: State = State.WAITING
    attempt: int = 0
    name: SessionId = _UNNAMED
    route: Route = ()
    peers: tuple[PeerId, ...] = ()
    opened: set[PeerId] = field(default_factory=set)
    repairs: int = 0
    interrupted: bool = False
    announce: bool = True
    trouble: HelixError | None = None
    chain: tuple[bytes, ...] = ()
    reused: int = 0
    fed: int = 0

    @property
    def key(self) -> GenerationKey:
        """What its client knows it by."""
        return (self.client, self.request.session)

    @property
    def answered(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the latest token is the last one; None when it is not."""
        request = self.request
        if self.tokens[-1] in request.eos and not request.ignore_eos:
            return FinishReason.STOP
        if self.answered >= request.max_new_tokens:
            return FinishReason.LENGTH
        return None

    @property
    def kv_tokens(self) -> int:
        """Positions it can reach."""
        return len(self.request.prompt) + self.request.max_new_tokens

    def take(self, route: Route) -> None:
        """It is on this pipeline from now on; on none where the route is empty."""
        self.route = route
        self.peers = tuple([hop.peer for hop in route])


@dataclass(frozen=True, slots=True)
class Served:
    """A generation that ended well: what is needed to check its stages afterwards.

    Attributes:
        session: As its stages called it.
        attempt: Of its last pipeline.
        route: That pipeline.
        tokens: Prompt and answer.
        fed: How many of them its last pipeline was fed before the first token that it gave.
        sampling: How tokens were chosen.
    """

    session: SessionId
    attempt: int
    route: Route
    tokens: tuple[int, ...]
    fed: int
    sampling: Sampling


def served(generation: Generation) -> Served:
    """Keep what a check needs."""
    return Served(
        generation.name,
        generation.attempt,
        generation.route,
        tuple(generation.tokens),
        generation.fed,
        generation.request.sampling,
    )
