"""How fast a peer is: measured seconds per layer, and from them T(k), tokens/s with k layers held.

A peer with k layers runs, in steady state, decode batches as large as the KV cache allows in the
memory that the weights leave. T(k) is what it then serves (Helix, ASPLOS 2025, §4.2).

Always: a profile is sorted by tokens, no time is shorter than a device can take or longer than
anybody waits, more tokens than were measured never take less time than these, T(k) is empty from
the first k whose weights do not fit.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated

from helix_p2p.cluster.model import HeldSizes, ModelSpec
from helix_p2p.codec import at_most
from helix_p2p.types import LayerRange, PeerId

CURVES_KEPT = 2048
"""From one plan to the next nearly everyone lends what it lent before."""
TYPICAL_CONTEXT_TOKENS = 1000
"""Tokens of KV a request holds on average; mean prompt 763 + half of mean output 232 in the public
Azure conversation trace (2023) is 880."""
FASTEST_S = 1e-9
"""No device runs a layer in less; who claims it is not to be asked how many times it lies."""
SLOWEST_S = 1e9
"""Nobody lends a device that takes thirty years for a layer; what is made of it stays finite."""

Points = Annotated[tuple[tuple[int, float], ...], at_most(64)]


@dataclass(frozen=True, slots=True)
class SpeedProfile:
    """Measured seconds one decoder layer takes.

    Attributes:
        prefill: (tokens in the chunk, seconds per layer), ascending tokens.
        decode: (sessions in the batch, seconds per layer), ascending batch.
        head_s: Seconds of final norm, head and sampling per decode step at batch 1.
    """

    prefill: Points
    decode: Points
    head_s: float = 0.0

    def __post_init__(self) -> None:
        for points in (self.prefill, self.decode):
            if not points or any(n < 1 or not FASTEST_S <= s <= SLOWEST_S for n, s in points):
                raise ValueError(
                    "a speed profile needs points, of a token at least and 1e-9 to 1e9 seconds"
                )
            if any(a[0] >= b[0] for a, b in pairwise(points)):
                raise ValueError("a speed profile's points ascend")
        if not 0 <= self.head_s <= SLOWEST_S:
            raise ValueError("a speed profile's head takes 0 to 1e9 seconds")

    def slowed(self, factor: float) -> "SpeedProfile":
        """All of it taking so many times longer, as far as that goes."""

        def longer(seconds: float) -> float:
            return min(factor * seconds, SLOWEST_S)

        return SpeedProfile(
            tuple((tokens, longer(seconds)) for tokens, seconds in self.prefill),
            tuple((batch, longer(seconds)) for batch, seconds in self.decode),
            longer(self.head_s),
        )

    def prefill_s(self, tokens: float) -> float:
        """Seconds per layer for a prefill chunk."""
        return interpolate(self.prefill, tokens)

    def decode_s(self, batch: float) -> float:
        """Seconds per layer for one decode step of `batch` sessions."""
        return interpolate(self.decode, batch)


@dataclass(frozen=True, slots=True)
class PeerProfile:
    """One peer as the planner sees it.

    Attributes:
        peer: Who.
        memory_bytes: For weights and KV cache together.
        tokens_per_s: T(k) for k = 1..K; K is the most layers that fit without embedding and head.
        uplink_bytes_per_s: What it can send, None where nothing is known to bind.
        downlink_bytes_per_s: What it can receive, likewise.
        speed: The measured profile T(k) came from, where there is one.
        kind: Hardware type; peers of one kind are interchangeable in search.
        region: Peers of one region have fast links among themselves; None where unknown.
        held: What the model weighs there; None where it weighs what the model's own sizes say.
    """

    peer: PeerId
    memory_bytes: int
    tokens_per_s: tuple[float, ...]
    uplink_bytes_per_s: float | None = None
    downlink_bytes_per_s: float | None = None
    speed: SpeedProfile | None = None
    kind: str = ""
    region: str | None = None
    held: HeldSizes | None = None

    def room_bytes(self, model: ModelSpec, layers: LayerRange) -> int:
        """What is left for KV cache beside the weights of `layers`; negative if they do not fit."""
        return self.memory_bytes - model.as_held(self.held).weight_bytes(layers)

    def room_tokens(self, model: ModelSpec, layers: LayerRange) -> float:
        """That room in tokens × layers; never below 0."""
        kv_bytes = model.as_held(self.held).kv_bytes_per_token
        return max(0, self.room_bytes(model, layers)) / max(1, kv_bytes)


def interpolate(points: tuple[tuple[int, float], ...], x: float) -> float:
    """Piecewise linear through `points`.

    Below the first it is flat; beyond the last it goes on along the last segment where that rises,
    else it stays: measured times fall now and then, by chance, and are never negative.
    """
    if x <= points[0][0] or len(points) == 1:
        return points[0][1]
    index = min(bisect_left(points, (x, 0.0)), len(points) - 1)
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    if x > x1:
        return y1 + max(0.0, y1 - y0) * (x - x1) / (x1 - x0)
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


@lru_cache(maxsize=CURVES_KEPT)
def throughput_curve(model: ModelSpec, memory_bytes: int, speed: SpeedProfile) -> tuple[float, ...]:
    """T(k) in tokens/s for k = 1..K from a measured profile.

    With k layers the KV cache allows B = free / (k · kv per token · typical context) sessions; one
    step of them takes k · decode_s(B). Peers whose KV holds less than one typical context still
    serve, at batch 1.

    Args:
        model: Sizes, as held there.
        memory_bytes: For weights and KV cache together.
        speed: Seconds per layer.

    Returns:
        T(1)..T(K), possibly empty; K ≤ model.layers.
    """
    curve: list[float] = []
    largest_batch = speed.decode[-1][0]
    for k in range(1, model.layers + 1):
        free = memory_bytes - k * model.layer_bytes
        session_bytes = (
            k * model.kv_bytes_per_token * min(TYPICAL_CONTEXT_TOKENS, model.context_tokens)
        )
        if free < session_bytes / 8:
            break
        batch = max(1.0, min(free / session_bytes, float(largest_batch)))
        curve.append(batch / (k * speed.decode_s(batch)))
    return tuple(curve)
