"""What a placement will really serve: a closed-loop estimate of throughput and latency.

Flow alone is a poor goal: a deep placement carries more flow on paper, but each token then waits
for more stages, and KV memory limits how many requests are in flight. So: requests in flight R are
what admission lets in; one token of one request takes a cycle (`cycle`); throughput X satisfies
X · cycle(X) = R, and never exceeds the flow.

Always: the estimate falls when a hop is added and all else is equal; it is 0 for no flow.
Source: interactive response-time law (Lazowska et al. 1984, ch. 5). How it compares with replays,
term by term, is in docs/planning.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.cycle import Load, load_of
from helix_p2p.planning.plan import Assignment, EdgeFlow
from helix_p2p.types import PeerId

CLOSE = 1e-3
"""Of what is in flight; search tells placements apart by less than a percent."""

_ROUNDS = 24


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
    """Estimate a placement under its flow.

    Pipelines that share no peer are estimated one by one: each is as full as its own memory lets
    it be, whatever its part of the flow.
    """
    held, parts = tuple(assignments), _apart(tuple(flows))
    found = [_of_part(load) for part in parts if (load := load_of(snapshot, held, part))]
    if not found:
        return NOT_ESTIMATED
    if len(found) == 1:
        return found[0]
    rate = sum(one.throughput_tokens_per_s for one in found)

    def mean(values: Iterable[float]) -> float:
        weighed = zip(values, found, strict=True)
        return sum(value * one.throughput_tokens_per_s for value, one in weighed) / max(rate, 1e-9)

    return Estimate(
        rate,
        mean(one.token_s for one in found),
        mean(one.light_token_s for one in found),
        sum(one.requests_in_flight for one in found),
        mean(one.mean_stages for one in found),
        max(found, key=lambda one: one.throughput_tokens_per_s).limit,
    )


def _apart(flows: tuple[EdgeFlow, ...]) -> list[list[EdgeFlow]]:
    """Edges by connected component of peers, in the order of their first edges."""
    leader: dict[PeerId, PeerId] = {}

    def find(peer: PeerId) -> PeerId:
        while leader.setdefault(peer, peer) != peer:
            leader[peer] = peer = leader[leader[peer]]
        return peer

    for edge in flows:
        if edge.source is not None and edge.target is not None:
            leader[find(edge.source)] = find(edge.target)
    parts: dict[PeerId, list[EdgeFlow]] = {}
    for edge in flows:
        end = edge.target if edge.source is None else edge.source
        if end is not None:
            parts.setdefault(find(end), []).append(edge)
    return list(parts.values())


def _of_part(load: Load) -> Estimate:
    light = load.cycle_s(min(1e-6, load.flow))
    if load.flow * load.cycle_s(load.flow) <= load.requests:
        return _answer(load, load.flow, light, "flow")
    return _answer(load, _balanced(load, light), light, "kv")


def _balanced(load: Load, light_s: float) -> float:
    """The rate at which what is in flight is what fits, by regula falsi (Illinois)."""
    low, below = 0.0, -load.requests
    # No cycle is shorter than that of a lone request.
    high, above = min(load.flow, load.requests / light_s), float("inf")
    for _ in range(_ROUNDS):
        if np.isfinite(above):
            rate = (low * above - high * below) / (above - below)
        else:
            rate = (low + high) / 2
        over = rate * load.cycle_s(rate) - load.requests
        if abs(over) <= CLOSE * load.requests:
            return rate
        if over > 0:
            high, above, below = rate, over, below / 2
        else:
            low, below, above = rate, over, above / 2
    return low


def _answer(load: Load, rate: float, light_s: float, limit: str) -> Estimate:
    stages = float(load.share.sum())
    return Estimate(rate, load.cycle_s(rate), light_s, load.requests, stages, limit)
