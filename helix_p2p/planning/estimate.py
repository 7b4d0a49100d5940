"""What a placement will really serve: a closed-loop estimate of throughput and latency.

Flow alone is a poor goal: a deep placement carries more flow on paper, but each token then waits
for more stages, and KV memory limits how many requests are in flight. So: requests in flight R are
what KV memory allows; one token of one request takes a cycle (its stages' layer times at the batch
that forms there, plus the hops and the way back to the entry peer); throughput X satisfies
X · cycle(X) = R, and never exceeds the flow.

Always: the estimate falls when a hop is added and all else is equal; it is 0 for no flow.
Source: interactive response-time law (Lazowska et al. 1984, ch. 5); request lengths are the means
of the public Azure conversation trace 2023 (763 prompt, 232 answer tokens).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from helix_p2p.cluster.profile import TYPICAL_CONTEXT_TOKENS, PeerProfile
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import MTOKENS, Floats
from helix_p2p.planning.plan import Assignment, EdgeFlow
from helix_p2p.types import LayerRange, PeerId

PROMPT_TOKENS_PER_ANSWER_TOKEN = 763 / 232
PREFILL_CHUNK_TOKENS = 256
ASSUMED_LATENCY_S = 0.05
"""Of a pair that nobody measured, as `Snapshot.default_link` has it."""

_BATCHES = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512], float)
FULLEST = 0.995
"""Utilisation beyond which a queue is taken to be endless."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a placement serves in a closed loop.

    Attributes:
        throughput_tokens_per_s: Answer tokens per second with as many requests as KV allows.
        token_s: Seconds between two tokens of one request at that load.
        light_token_s: The same when it is alone in the swarm.
        requests_in_flight: What KV memory allows.
        mean_stages: Stages of a pipeline, weighted by flow.
        limit: `flow`, `kv` or `none`: what holds the throughput down.
    """

    throughput_tokens_per_s: float
    token_s: float
    light_token_s: float
    requests_in_flight: float
    mean_stages: float
    limit: str


NOT_ESTIMATED = Estimate(0.0, 0.0, 0.0, 0.0, 0.0, "none")


def estimate(
    snapshot: Snapshot, assignments: Iterable[Assignment], flows: Iterable[EdgeFlow]
) -> Estimate:
    """Estimate a placement under its flow."""
    load = _load_of(snapshot, assignments, tuple(flows))
    if load is None:
        return NOT_ESTIMATED
    light = load.cycle_s(min(1e-6, load.flow))
    top = _highest(load)
    if top * load.cycle_s(top) <= load.requests:
        return _answer(load, top, light, "flow")
    low, high = 0.0, top
    for _ in range(16):
        middle = (low + high) / 2
        if middle * load.cycle_s(middle) <= load.requests:
            low = middle
        else:
            high = middle
    return _answer(load, low, light, "kv")


@dataclass(frozen=True)
class _Load:
    """A placement under flow, as arrays over the stages that carry some."""

    flow: float
    share: Floats
    layers: Floats
    step_s: Floats
    head_s: Floats
    prefill_s_per_token: Floats
    hops_s: float
    requests: float
    wire_share: Floats
    wire_s_per_token: Floats

    def cycle_s(self, rate: float) -> float:
        """Seconds from one token of a request to its next at `rate` tokens/s; inf when too much."""
        own = rate * self.share
        busy = own * self.prefill_s_per_token * PROMPT_TOKENS_PER_ANSWER_TOKEN * self.layers
        if bool((busy >= FULLEST).any()):
            return float("inf")
        wire_s = self._wire_s(rate)
        if not np.isfinite(wire_s):
            return float("inf")
        batch = np.ones(self.share.size)
        for _ in range(20):
            serve = self._serve_s(batch) / (1 - busy)
            grown = np.maximum(1.0, own * serve)
            if bool((grown > _BATCHES[-1]).any()):
                return float("inf")
            if bool((np.abs(grown - batch) <= 0.01 * batch).all()):
                break
            batch = grown
        serve = self._serve_s(batch) / (1 - busy)
        # A frame that arrives while a batch runs waits for half of it on average.
        wait = 0.5 * serve * np.minimum(1.0, own * serve)
        return float((self.share * (serve + wait)).sum()) + self.hops_s + wire_s

    def _wire_s(self, rate: float) -> float:
        """Seconds a token spends on thin wires: its own frame, and waiting for prefill chunks."""
        prefill = rate * self.wire_share * self.wire_s_per_token * PROMPT_TOKENS_PER_ANSWER_TOKEN
        busy = prefill + rate * self.wire_share * self.wire_s_per_token
        if bool((busy >= FULLEST).any()):
            return float("inf")
        # Decode frames go first, so one waits at most for the chunk that is being sent.
        chunk_s = PREFILL_CHUNK_TOKENS * self.wire_s_per_token
        wait = (self.wire_s_per_token + prefill * chunk_s / 2) / (1 - busy)
        return float((self.wire_share * wait).sum())

    def _serve_s(self, batch: Floats) -> Floats:
        at = np.clip(np.searchsorted(_BATCHES, batch, side="right") - 1, 0, _BATCHES.size - 2)
        part = np.clip((batch - _BATCHES[at]) / (_BATCHES[at + 1] - _BATCHES[at]), 0.0, 1.0)
        rows = np.arange(batch.size)
        step = self.step_s[rows, at] * (1 - part) + self.step_s[rows, at + 1] * part
        served: Floats = self.layers * step + self.head_s
        return served


def _highest(load: _Load) -> float:
    """The highest rate up to the flow that every stage keeps up with."""
    if np.isfinite(load.cycle_s(load.flow)):
        return load.flow
    low, high = 0.0, load.flow
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if np.isfinite(load.cycle_s(middle)) else (low, middle)
    return low


def _answer(load: _Load, rate: float, light_s: float, limit: str) -> Estimate:
    stages = float(load.share.sum())
    return Estimate(rate, load.cycle_s(rate), light_s, load.requests, stages, limit)


def _load_of(
    snapshot: Snapshot, assignments: Iterable[Assignment], flows: tuple[EdgeFlow, ...]
) -> _Load | None:
    ranges = {assignment.peer: assignment.layers for assignment in assignments}
    carried: dict[PeerId, int] = {}
    work: dict[PeerId, int] = {}
    hops = 0.0
    entering: dict[PeerId, int] = {}
    leaving: dict[PeerId, int] = {}
    for edge in flows:
        if edge.target is None:
            if edge.source is not None:
                leaving[edge.source] = leaving.get(edge.source, 0) + edge.mtokens_per_s
            continue
        begin = 0 if edge.source is None else ranges[edge.source].end
        carried[edge.target] = carried.get(edge.target, 0) + edge.mtokens_per_s
        served = (ranges[edge.target].end - begin) * edge.mtokens_per_s
        work[edge.target] = work.get(edge.target, 0) + served
        if edge.source is None:
            entering[edge.target] = entering.get(edge.target, 0) + edge.mtokens_per_s
        else:
            hops += edge.mtokens_per_s * _latency_s(snapshot, edge.source, edge.target)
    total = sum(entering.values())
    if total <= 0:
        return None
    back = _way_back(snapshot, entering, leaving, ranges)
    wires = _wires(snapshot, flows, total)
    profiles = {profile.peer: profile for profile in snapshot.peers if profile.peer in carried}
    order = sorted(carried)
    share = np.array([carried[p] / total for p in order])
    layers = np.array([work[p] / carried[p] for p in order])
    curves = [_curve(snapshot, profiles[p], ranges[p]) for p in order]
    free = np.array(
        [profiles[p].memory_bytes - snapshot.model.weight_bytes(ranges[p]) for p in order]
    )
    return _Load(
        flow=total / MTOKENS,
        share=share,
        layers=layers,
        step_s=np.array([curve[0] for curve in curves]),
        head_s=np.array([curve[1] for curve in curves]),
        prefill_s_per_token=np.array([curve[2] for curve in curves]),
        hops_s=(hops + back) / total,
        requests=_requests(snapshot, share * layers, free),
        wire_share=wires[0],
        wire_s_per_token=wires[1],
    )


def _wires(snapshot: Snapshot, flows: tuple[EdgeFlow, ...], total: int) -> tuple[Floats, Floats]:
    """Share of the flow over each uplink, downlink and link of known width; its s per token."""
    out: dict[PeerId, int] = {}
    into: dict[PeerId, int] = {}
    found: list[tuple[float, float | None]] = []
    for edge in flows:
        if edge.source is None or edge.target is None:
            continue
        out[edge.source] = out.get(edge.source, 0) + edge.mtokens_per_s
        into[edge.target] = into.get(edge.target, 0) + edge.mtokens_per_s
        link = snapshot.link(edge.source, edge.target)
        if link is not None:
            found.append((edge.mtokens_per_s, link.bandwidth_bytes_per_s))
    for profile in snapshot.peers:
        found.append((out.get(profile.peer, 0), profile.uplink_bytes_per_s))
        found.append((into.get(profile.peer, 0), profile.downlink_bytes_per_s))
    size = snapshot.model.activation_bytes
    known = [(amount / total, size / width) for amount, width in found if amount and width]
    columns = np.array(known, dtype=np.float64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def _way_back(
    snapshot: Snapshot,
    entering: Mapping[PeerId, int],
    leaving: Mapping[PeerId, int],
    ranges: Mapping[PeerId, LayerRange],
) -> float:
    """Σ flow · seconds from last stages back to entry peers; a peer with all layers needs none."""
    layers = snapshot.model.layers
    first = {peer: amount for peer, amount in entering.items() if ranges[peer].end < layers}
    last = {peer: amount for peer, amount in leaving.items() if ranges[peer].start > 0}
    total = max(1, sum(first.values()))
    return sum(
        out * into / total * _latency_s(snapshot, source, target)
        for source, out in last.items()
        for target, into in first.items()
    )


def _requests(snapshot: Snapshot, layers_per_request: Floats, free_bytes: Floats) -> float:
    """Requests in flight that fit everywhere at once, when they spread like the flow."""
    model = snapshot.model
    tokens = min(TYPICAL_CONTEXT_TOKENS, model.context_tokens)
    per_request = layers_per_request * max(1, model.kv_bytes_per_token) * tokens
    return max(1.0, float((np.maximum(0, free_bytes) / per_request).min()))


def _curve(
    snapshot: Snapshot, profile: PeerProfile, layers: LayerRange
) -> tuple[Floats, float, float]:
    """Seconds per layer at each of `_BATCHES`, of the head, and of prefill per token and layer."""
    speed = profile.speed
    if speed is None:
        # Only T(k) is known. Decoding is bound by reading weights, so half of a full batch's time
        # is taken to be fixed.
        model = snapshot.model
        session = len(layers) * model.kv_bytes_per_token * TYPICAL_CONTEXT_TOKENS
        free = profile.memory_bytes - model.weight_bytes(layers)
        full = float(np.clip(free / max(1, session), 1.0, 256.0))
        rate = profile.tokens_per_s[min(len(layers), len(profile.tokens_per_s)) - 1]
        full_s = full / (len(layers) * max(rate, 1e-9))
        return full_s * (0.5 + 0.5 * _BATCHES / full), 0.0, 0.0
    batches, seconds = (np.array(column, float) for column in zip(*speed.decode, strict=True))
    step_s = np.interp(_BATCHES, batches, seconds)
    beyond = batches[-1] < _BATCHES
    # Beyond what was measured a batch is served as several full ones.
    step_s[beyond] = seconds[-1] * _BATCHES[beyond] / batches[-1]
    head_s = speed.head_s if layers.end == snapshot.model.layers else 0.0
    prefill = speed.prefill_s(PREFILL_CHUNK_TOKENS) / PREFILL_CHUNK_TOKENS
    return step_s, max(0.0, head_s), prefill


def _latency_s(snapshot: Snapshot, source: PeerId, target: PeerId) -> float:
    if source == target:
        return 0.0
    link = snapshot.link(source, target)
    return ASSUMED_LATENCY_S if link is None else link.latency_s
