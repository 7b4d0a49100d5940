"""How long a token takes from one to the next of its request, at a given load.

A token passes stages and wires, and none of them lets it overtake what came before. What comes
before is now and then a prompt, which takes many times as long on each of them; tokens that caught
up with one ride behind it until their ways part. So a stage delays by its own prompt time e with
the probability that a prompt is near enough ahead: 1 - exp(-r·D), where r prompts per second pass
here and D is how far they have fallen back on a token's pace since it has shared their way. Along a
chain that D grows to seconds, which is why depth costs more than the sum of its stages.

Besides that a token waits for the batch that runs when it arrives, then for its own: what is at a
stage at once (Little's law) is the batch.

Always: pure; infinite where prompts alone are more than a stage or a wire can take.
Source: a queue of two speeds without overtaking, i.e. traffic behind a slow vehicle; the fit with
replays is in docs/planning.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from helix_p2p.cluster.profile import CURVES_KEPT, PeerProfile
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import MTOKENS, Floats, Ints
from helix_p2p.planning.plan import Assignment, EdgeFlow
from helix_p2p.types import LayerRange, PeerId

PROMPT_TOKENS = 763
ANSWER_TOKENS = 232
"""Means of the public Azure conversation trace 2023."""

ADMITTED_TOKENS = 1003
"""What admission charges a request: its prompt and a mean answer."""

FED_SHARE = 0.8
"""A closed loop is fed while the fullest layer's caches are at most this full."""

FULL_SHARE = 0.85
"""A stage takes no request that would fill it beyond this; what its share of the flow brings it
then goes nowhere."""

ASSUMED_LATENCY_S = 0.05
"""Of a pair that nobody measured, as `Snapshot.default_link` has it."""

FULLEST = 0.995
"""Utilisation beyond which a queue is taken to be endless."""

SETTLED = 0.005
"""Change of a stage's delay under which the batch that forms is taken to be found."""

_BATCHES = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512], float)
_WIDTHS = np.diff(_BATCHES)
_ROUNDS = 12


@dataclass(frozen=True)
class Load:
    """A placement under flow: arrays over the stages that carry some, then over their wires.

    Attributes:
        flow: Tokens per second.
        requests: That admission lets in.
        share: [stages] of all tokens that pass here.
        layers: [stages] that a token is served here, on average.
        step_s: [stages, batches]: seconds per layer and decode step.
        head_s: [stages]: besides, per decode step.
        prompt_s: [stages]: a whole prompt takes.
        behind_s: [stages]: how far a prompt has fallen back when it leaves.
        wire_share: [wires] of all tokens.
        wire_s: [wires]: a token takes.
        wire_behind_s: [wires]: as `behind_s`.
        hops_s: Latencies of a whole cycle.
    """

    flow: float
    requests: float
    share: Floats
    layers: Floats
    step_s: Floats
    head_s: Floats
    prompt_s: Floats
    behind_s: Floats
    wire_share: Floats
    wire_s: Floats
    wire_behind_s: Floats
    hops_s: float

    def cycle_s(self, rate: float) -> float:
        """Seconds from one token of a request to its next at `rate` tokens/s; inf when too much."""
        prompts = rate / ANSWER_TOKENS
        delay = _behind_prompts_s(prompts * self.share, self.prompt_s, self.behind_s)
        prompt_wire_s = PROMPT_TOKENS * self.wire_s
        wires = self.wire_s + _behind_prompts_s(
            prompts * self.wire_share, prompt_wire_s, self.wire_behind_s
        )
        own = rate * self.share
        here = delay + self._alone_s
        for _ in range(_ROUNDS):
            batch = np.maximum(1.0, own * here)
            if not batch.max() <= _BATCHES[-1]:
                return float("inf")
            serve = self._serve_s(batch)
            busy = np.minimum(1.0, own * serve / batch)
            found = delay + serve * (1 + 0.5 * busy)
            if np.abs(found - here).max() <= SETTLED * here.max():
                break
            here = found
        return float((self.share * found).sum() + (self.wire_share * wires).sum()) + self.hops_s

    def _serve_s(self, batch: Floats) -> Floats:
        """One decode step of a batch from 1 to the largest."""
        at = np.minimum(_BATCHES.searchsorted(batch, side="right") - 1, _BATCHES.size - 2)
        low = self.step_s[self._rows, at]
        rise = (self.step_s[self._rows, at + 1] - low) / _WIDTHS[at]
        served: Floats = self.layers * (low + rise * (batch - _BATCHES[at])) + self.head_s
        return served

    @cached_property
    def _rows(self) -> Ints:
        return np.arange(self.share.size)

    @cached_property
    def _alone_s(self) -> Floats:
        return self._serve_s(np.ones(self.share.size))


def _behind_prompts_s(prompts_per_s: Floats, prompt_s: Floats, behind_s: Floats) -> Floats:
    """What a token loses behind prompts; inf where they never end."""
    busy = prompts_per_s * prompt_s
    if busy.size and not busy.max() < FULLEST:
        return np.full(busy.shape, np.inf)
    near = 1 - np.exp(-prompts_per_s * (behind_s - prompt_s / 2))
    delay: Floats = prompt_s * near * (1 + busy / (2 * (1 - busy)))
    return delay


def load_of(
    snapshot: Snapshot, assignments: Iterable[Assignment], flows: Iterable[EdgeFlow]
) -> Load | None:
    """Read a placement under its flow; None where nothing flows."""
    ranges = {assignment.peer: assignment.layers for assignment in assignments}
    edges = tuple(flows)
    carried: dict[PeerId, int] = {}
    work: dict[PeerId, int] = {}
    for edge in edges:
        if edge.target is not None:
            begin = 0 if edge.source is None else ranges[edge.source].end
            served = (ranges[edge.target].end - begin) * edge.mtokens_per_s
            carried[edge.target] = carried.get(edge.target, 0) + edge.mtokens_per_s
            work[edge.target] = work.get(edge.target, 0) + served
    total = sum(edge.mtokens_per_s for edge in edges if edge.source is None)
    if total <= 0:
        return None
    profiles = {profile.peer: profile for profile in snapshot.peers if profile.peer in carried}
    # Along an edge the end of the range rises, so this order has every source before its targets.
    order = sorted(carried, key=lambda peer: (ranges[peer].end, peer))
    share = np.array([carried[p] / total for p in order])
    layers = np.array([work[p] / carried[p] for p in order])
    curves = [_curve(snapshot, profiles[p], ranges[p]) for p in order]
    prompt_s = layers * np.array([curve[2] for curve in curves])
    wires = _wires(snapshot, edges, profiles, carried, {p: n for n, p in enumerate(order)})
    behind, wire_behind = _fallen_back(prompt_s, share * total, wires)
    return Load(
        flow=total / MTOKENS,
        requests=_requests(snapshot, ranges, share * layers, profiles, order),
        share=share,
        layers=layers,
        step_s=np.array([curve[0] for curve in curves]),
        head_s=np.array([curve[1] for curve in curves]),
        prompt_s=prompt_s,
        behind_s=behind,
        wire_share=wires.carried / total,
        wire_s=wires.token_s,
        wire_behind_s=wire_behind,
        hops_s=float((wires.carried * wires.latency_s).sum()) / total
        + _way_back_s(snapshot, edges, ranges, total),
    )


@dataclass(frozen=True)
class _Wires:
    """Edges between stages, in the order of their sources."""

    sources: Ints
    targets: Ints
    carried: Floats
    token_s: Floats
    latency_s: Floats


def _wires(
    snapshot: Snapshot,
    edges: tuple[EdgeFlow, ...],
    profiles: dict[PeerId, PeerProfile],
    carried: dict[PeerId, int],
    row: dict[PeerId, int],
) -> _Wires:
    """Each edge has its part, by flow, of both ends' network besides its own width."""
    found: list[tuple[int, int, float, float, float]] = []
    size = snapshot.model.activation_bytes
    for edge in edges:
        source, target, amount = edge.source, edge.target, edge.mtokens_per_s
        if source is None or target is None:
            continue
        link = snapshot.link(source, target)
        widths = [None if link is None else link.bandwidth_bytes_per_s]
        for peer, width in (
            (source, profiles[source].uplink_bytes_per_s),
            (target, profiles[target].downlink_bytes_per_s),
        ):
            widths.append(width and width * amount / carried[peer])
        known = [width for width in widths if width]
        latency_s = ASSUMED_LATENCY_S if link is None else link.latency_s
        token_s = size / min(known) if known else 0.0
        found.append((row[source], row[target], amount, token_s, latency_s))
    found.sort()
    columns = np.array(found, dtype=np.float64).reshape(-1, 5).T
    return _Wires(columns[0].astype(np.int64), columns[1].astype(np.int64), *columns[2:])


def _fallen_back(prompt_s: Floats, carried: Floats, wires: _Wires) -> tuple[Floats, Floats]:
    """How far a prompt has fallen back on a token that has come its way, per stage and wire.

    Of those that come in over one wire, as many prompts ahead came over it too as its part of the
    stage's traffic is; the others came another way and carry no queue along.
    """
    behind, on_wire = prompt_s.copy(), PROMPT_TOKENS * wires.token_s
    for n, (source, target) in enumerate(
        zip(wires.sources.tolist(), wires.targets.tolist(), strict=True)
    ):
        on_wire[n] += behind[source]
        behind[target] += (wires.carried[n] / carried[target]) ** 2 * on_wire[n]
    return behind, on_wire


def _way_back_s(
    snapshot: Snapshot, edges: tuple[EdgeFlow, ...], ranges: dict[PeerId, LayerRange], total: int
) -> float:
    """From last stages back to entry peers; a peer with all layers needs none."""
    layers = snapshot.model.layers
    first = [
        (e.target, e.mtokens_per_s)
        for e in edges
        if e.source is None and e.target is not None and ranges[e.target].end < layers
    ]
    last = [
        (e.source, e.mtokens_per_s)
        for e in edges
        if e.target is None and e.source is not None and ranges[e.source].start > 0
    ]
    entering = max(1, sum(amount for _, amount in first))
    return sum(
        out * into / entering * _latency_s(snapshot, source, target)
        for source, out in last
        for target, into in first
    ) / max(1, total)


def _requests(
    snapshot: Snapshot,
    ranges: dict[PeerId, LayerRange],
    layers_per_request: Floats,
    profiles: dict[PeerId, PeerProfile],
    order: list[PeerId],
) -> float:
    """Requests in flight that admission lets in.

    Replicas of a layer share what the feed looks at; a stage with more of the flow than of the
    memory stops earlier.
    """
    model = snapshot.model
    tokens = min(ADMITTED_TOKENS, model.context_tokens)
    room = np.array([profiles[p].room_tokens(model, ranges[p]) for p in order])
    per_layer = np.zeros(model.layers + 1)
    for n, peer in enumerate(order):
        held = ranges[peer]
        per_layer[held.start] += room[n] / len(held)
        per_layer[held.end] -= room[n] / len(held)
    together = float(np.cumsum(per_layer)[:-1].min()) / tokens
    spread = float((room / layers_per_request).min()) / tokens
    return max(1.0, min(FED_SHARE * together, FULL_SHARE * spread))


def _curve(
    snapshot: Snapshot, profile: PeerProfile, layers: LayerRange
) -> tuple[Floats, float, float]:
    """Seconds per layer at each of `_BATCHES`, of the head, and of a prompt per layer."""
    speed = profile.speed
    if speed is None:
        # Only T(k) is known. Decoding is bound by reading weights, so half of a full batch's time
        # is taken to be fixed; a prompt's tokens cost what the other half has for as many.
        sessions = profile.room_tokens(snapshot.model, layers) / (len(layers) * ADMITTED_TOKENS)
        full = float(np.clip(sessions, 1.0, 256.0))
        rate = profile.tokens_per_s[min(len(layers), len(profile.tokens_per_s)) - 1]
        full_s = full / (len(layers) * max(rate, 1e-9))
        return full_s * (0.5 + 0.5 * _BATCHES / full), 0.0, 0.0
    head_s = speed.head_s if layers.end == snapshot.model.layers else 0.0
    return _step_s(speed.decode), head_s, speed.prefill_s(PROMPT_TOKENS)


@lru_cache(maxsize=CURVES_KEPT)
def _step_s(decode: tuple[tuple[int, float], ...]) -> Floats:
    """Seconds per layer at each of `_BATCHES`; not to be written to."""
    batches, seconds = (np.array(column, float) for column in zip(*decode, strict=True))
    step_s: Floats = np.interp(_BATCHES, batches, seconds)
    beyond = batches[-1] < _BATCHES
    # Beyond what was measured a batch is served as several full ones.
    step_s[beyond] = seconds[-1] * _BATCHES[beyond] / batches[-1]
    return step_s


def _latency_s(snapshot: Snapshot, source: PeerId, target: PeerId) -> float:
    if source == target:
        return 0.0
    link = snapshot.link(source, target)
    return ASSUMED_LATENCY_S if link is None else link.latency_s
