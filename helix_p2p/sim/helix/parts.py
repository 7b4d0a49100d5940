"""The moving parts of Helix mode: requests, batches, links, stages.

Plain mutable records with slots: the replay touches them millions of times. What they mean is the
artifact's: a request is one pass (the prompt, or one token) of a query; it keeps its place in every
queue until it is taken.
"""

from collections.abc import Sequence

from helix_p2p.sim.helix.setup import LinkSetup, StageSetup
from helix_p2p.types import PeerId


class Way:
    """A link at work: one request at a time, first come first served."""

    __slots__ = (
        "bandwidth",
        "ema_s",
        "flow",
        "free_at_s",
        "index",
        "latency_s",
        "load",
        "max_bandwidth",
        "per_token_s",
        "setup",
        "source",
        "target",
        "token_bytes",
        "tokens",
        "turn",
    )

    def __init__(self, index: int, setup: LinkSetup, activation_bytes: int, token_bytes: int):
        self.index = index
        self.setup = setup
        self.source: Stage | None = None
        self.target: Stage | None = None
        ends = setup.source is None or setup.target is None
        self.token_bytes = token_bytes + (0 if ends else activation_bytes)
        self.latency_s = setup.latency_s
        self.max_bandwidth = setup.bandwidth_bytes_per_s
        self.flow = setup.flow_tokens_per_s
        self.free_at_s = 0.0
        self.tokens = 0
        self.load = 0.0  # max flow: seconds of flow given to it
        self.turn = 0.0  # swarm: its priority
        self.ema_s = 0.0  # swarm: how long requests took over it
        self.allot(self.max_bandwidth)

    def allot(self, bandwidth_bytes_per_s: float) -> None:
        """Send at this speed."""
        self.bandwidth = bandwidth_bytes_per_s
        self.per_token_s = self.token_bytes / bandwidth_bytes_per_s


class Query:
    """One generation; `way` is where its request is, or is sent over next."""

    __slots__ = (
        "began_s",
        "context",
        "done",
        "hop",
        "input_tokens",
        "output_tokens",
        "prompt",
        "route",
        "sent_s",
        "tokens",
        "way",
    )

    def __init__(self, input_tokens: int, output_tokens: int, began_s: float) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.began_s = began_s
        self.prompt = True
        self.tokens = input_tokens  # of the request now on its way
        self.context = 0  # tokens before it
        self.done = 0  # decode passes done
        self.hop = 0
        self.route: list[Way] = []
        self.way: Way | None = None
        self.sent_s = 0.0


class Batch:
    """Requests that wait together, with their sums."""

    __slots__ = ("context", "decodes", "prompt_tokens", "prompts", "queries")

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.prompts = 0
        self.prompt_tokens = 0
        self.decodes = 0
        self.context = 0

    def add(self, query: Query) -> None:
        """Put one more at the end."""
        self.queries.append(query)
        if query.prompt:
            self.prompts += 1
            self.prompt_tokens += query.tokens
        else:
            self.decodes += 1
            self.context += query.context

    def join(self, other: "Batch") -> None:
        """Put all of another batch at the end."""
        self.queries += other.queries
        self.prompts += other.prompts
        self.prompt_tokens += other.prompt_tokens
        self.decodes += other.decodes
        self.context += other.context


class Stage:
    """A peer at work: one queue before each of its layers."""

    __slots__ = (
        "at",
        "batch",
        "buffered_tokens",
        "decode_s",
        "end",
        "expected_kv",
        "index",
        "kv_peak",
        "kv_used",
        "layers",
        "most_context",
        "most_decodes",
        "most_prompt_tokens",
        "most_prompts",
        "outbox",
        "peer",
        "prefill_s",
        "queues",
        "setup",
        "start",
        "ways",
    )

    def __init__(
        self, index: int, setup: StageSetup, prompt_tokens: int, context_tokens: int
    ) -> None:
        self.index = index
        self.setup = setup
        self.peer: PeerId = setup.peer
        self.start, self.end = setup.layers.start, setup.layers.end
        self.layers = len(setup.layers)
        self.queues: list[Batch | None] = [None] * self.layers
        self.at = 0
        self.batch: Batch | None = None
        self.buffered_tokens = 0
        self.prefill_s: Sequence[float] = setup.prefill_s
        self.decode_s: Sequence[float] = setup.decode_s
        self.most_prompts = setup.most_prompts
        self.most_prompt_tokens = setup.most_prompts * prompt_tokens
        self.most_decodes = setup.most_decodes
        self.most_context = setup.most_decodes * context_tokens
        self.kv_used = 0
        self.kv_peak = 0
        self.expected_kv = 0
        self.ways: list[Way] = []
        self.outbox: list[Query] = []

    def waiting(self) -> int:
        """Requests before its first layer."""
        first = self.queues[0]
        return 0 if first is None else len(first.queries)

    def take(self) -> Batch | None:
        """The next batch: all that waits before the layer it is at, as far as its limits allow."""
        waiting = self.queues[self.at]
        if waiting is None:
            self.march()
            waiting = self.queues[self.at]
            if waiting is None:
                return None
        if (
            waiting.prompts <= self.most_prompts
            and waiting.decodes <= self.most_decodes
            and waiting.prompt_tokens <= self.most_prompt_tokens
            and waiting.context <= self.most_context
        ):
            self.queues[self.at] = None
            return waiting
        taken, left = Batch(), Batch()
        for query in waiting.queries:
            if query.prompt:
                fits = (
                    taken.prompts < self.most_prompts
                    and taken.prompt_tokens + query.tokens <= self.most_prompt_tokens
                )
            else:
                fits = (
                    taken.decodes < self.most_decodes
                    and taken.context + query.context <= self.most_context
                )
            (taken if fits else left).add(query)
        self.queues[self.at] = left
        return taken

    def march(self) -> None:
        """Go on to the next layer that has something to do; stay where there is none."""
        queues, count, at = self.queues, self.layers, self.at
        for step in range(at + 1, at + count):
            position = step - count if step >= count else step
            if queues[position] is not None:
                self.at = position
                return
