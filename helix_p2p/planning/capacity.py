"""T'_i(range): what each peer can carry, in whole thousandths of a token per second.

One table answers every later question, so search, flow, certificate and validation cannot disagree.
A peer that holds an end of the model also holds the embedding or the head, which leaves less room
for KV cache, and needs no network on that side (its tokens come from or go to clients). Hence four
columns of capacity per peer: in the middle, first, last, and the whole model.

Always: integers, so that flow = cut is exact; 0 where the range does not fit in memory.
Source: T(k) is Helix (ASPLOS 2025, §4.2); folding uplink and downlink into it is exact as long as
no pairwise link binds (docs/planning.md).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from helix_p2p.cluster.model import HeldSizes, ModelSpec
from helix_p2p.cluster.profile import CURVES_KEPT, TYPICAL_CONTEXT_TOKENS, SpeedProfile
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.types import LayerRange, PeerId

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MIDDLE, FIRST, LAST, WHOLE = 0, 1, 2, 3
"""Columns of the table; FIRST | LAST == WHOLE."""

MTOKENS = 1000
"""Thousandths of a token per second in one token per second."""

CAPACITY_LIMIT_MTOKENS = 10**12
"""No peer serves a thousand million tokens per second; keeps sums far inside 64 bits."""


@dataclass(frozen=True)
class Capacities:
    """Capacities of every peer for every length of range at every kind of place.

    Attributes:
        layers: L.
        peers: Ascending, as in the snapshot.
        mtokens_per_s: [peers, 4, L + 1] by place (MIDDLE, FIRST, LAST, WHOLE) and length.
    """

    layers: int
    peers: tuple[PeerId, ...]
    mtokens_per_s: Ints

    @cached_property
    def index(self) -> dict[PeerId, int]:
        """Row of each peer."""
        return {peer: row for row, peer in enumerate(self.peers)}

    @cached_property
    def longest(self) -> Ints:
        """[peers, 4]: the most layers each peer can hold at each kind of place, 0 for none."""
        lengths = np.arange(self.layers + 1)
        most: Ints = (lengths * (self.mtokens_per_s > 0)).max(axis=2).astype(np.int64)
        return most

    @cached_property
    def best(self) -> Ints:
        """[peers, L + 1]: the capacity at the most favourable place."""
        most: Ints = self.mtokens_per_s.max(axis=1)
        return most

    @cached_property
    def kind(self) -> Ints:
        """[peers]: peers with equal rows are interchangeable and share a number."""
        flat = self.mtokens_per_s.reshape(len(self.peers), -1)
        numbers: dict[bytes, int] = {}
        rows = [numbers.setdefault(row.tobytes(), len(numbers)) for row in flat]
        return np.array(rows, dtype=np.int64)

    @cached_property
    def remembered(self) -> dict[Any, Any]:
        """What searches derive from this table once and use again."""
        return {}

    def of(self, peer: int, layers: LayerRange) -> int:
        """Capacity of the peer in row `peer` when it holds `layers`; 0 when they do not fit."""
        if layers.end > self.layers:
            return 0
        place = (FIRST if layers.start == 0 else 0) | (LAST if layers.end == self.layers else 0)
        return int(self.mtokens_per_s[peer, place, len(layers)])

    def of_layout(self, starts: Ints, ends: Ints) -> Ints:
        """[peers]: capacities when peer i holds [starts[i], ends[i]); empty ranges give 0."""
        place = np.where(starts == 0, FIRST, 0) | np.where(ends == self.layers, LAST, 0)
        held = ends - starts
        rows = np.arange(len(self.peers))
        return np.where(held > 0, self.mtokens_per_s[rows, place, np.maximum(held, 0)], 0)


def capacities_of(snapshot: Snapshot) -> Capacities:
    """Build the table of a snapshot."""
    model = snapshot.model
    table = np.zeros((len(snapshot.peers), 4, model.layers + 1), dtype=np.int64)
    for row, profile in enumerate(snapshot.peers):
        table[row, :, 1:] = _row(
            model,
            profile.held,
            profile.memory_bytes,
            profile.tokens_per_s,
            profile.speed,
            profile.uplink_bytes_per_s,
            profile.downlink_bytes_per_s,
        )
    lengths = np.arange(model.layers + 1)
    # A range that begins at neither end leaves out a layer on both sides, and so on.
    table[:, MIDDLE, lengths > model.layers - 2] = 0
    table[:, FIRST, lengths > model.layers - 1] = 0
    table[:, LAST, lengths > model.layers - 1] = 0
    table[:, WHOLE, lengths < model.layers] = 0
    return Capacities(model.layers, tuple(p.peer for p in snapshot.peers), table)


@lru_cache(maxsize=CURVES_KEPT)
def _row(
    model: ModelSpec,
    held: HeldSizes | None,
    memory_bytes: int,
    tokens_per_s: tuple[float, ...],
    speed: SpeedProfile | None,
    uplink_bytes_per_s: float | None,
    downlink_bytes_per_s: float | None,
) -> Ints:
    """[4, L]: what a peer that lends this carries; not to be written to."""
    rates = _rates(model.as_held(held), memory_bytes, tokens_per_s, speed)
    row = np.empty((4, model.layers), dtype=np.int64)
    for place in (MIDDLE, FIRST, LAST, WHOLE):
        limit = _network_tokens_per_s(
            model.activation_bytes, uplink_bytes_per_s, downlink_bytes_per_s, place
        )
        rate = np.minimum(rates[place], limit) * MTOKENS
        row[place] = np.minimum(np.floor(rate + 1e-6), CAPACITY_LIMIT_MTOKENS)
    return row


def extra_bytes(model: ModelSpec, place: int) -> int:
    """What a peer at this place holds besides its layers."""
    return (model.embedding_bytes if place & FIRST else 0) + (
        model.head_bytes if place & LAST else 0
    )


def _kv_bytes_per_layer(model: ModelSpec) -> int:
    return max(1, model.kv_bytes_per_token * min(TYPICAL_CONTEXT_TOKENS, model.context_tokens))


def _rates(
    model: ModelSpec,
    memory_bytes: int,
    tokens_per_s: tuple[float, ...],
    speed: SpeedProfile | None,
) -> list[Floats]:
    """Per place, [L]: tokens/s for 1..L layers by compute and memory; 0 where they do not fit.

    In the middle it is T(k) as stated. At an end, what the embedding or the head leaves of it: the
    ratio of the two computed rates where the speed is known; else all of it where it still fits.
    """
    given = np.zeros(model.layers)
    known = min(model.layers, len(tokens_per_s))
    given[:known] = np.nan_to_num(tokens_per_s[:known], nan=0.0, posinf=0.0)
    given = np.maximum(given, 0.0)
    if speed is None:
        lost = np.array([extra_bytes(model, place) for place in range(4)])
        lengths = np.arange(1, model.layers + 1)
        fits = lengths + lost[:, None] / max(1, model.layer_bytes) <= known
        return [np.where(fits[place], given, 0.0) for place in range(4)]
    if model.embedding_bytes == model.head_bytes == 0 and not speed.head_s > 0:
        return [given] * 4
    computed = [_computed(model, memory_bytes, speed, place) for place in range(4)]
    middle = computed[MIDDLE]
    share = [np.divide(c, middle, out=np.zeros_like(c), where=middle > 0) for c in computed]
    return [given, *(given * share[place] for place in (FIRST, LAST, WHOLE))]


def _computed(model: ModelSpec, memory_bytes: int, speed: SpeedProfile, place: int) -> Floats:
    """[L]: as `throughput_curve`, with what an end costs in memory and time."""
    lengths = np.arange(1, model.layers + 1)
    free = float(memory_bytes) - lengths * float(model.layer_bytes) - extra_bytes(model, place)
    session_bytes = lengths * float(_kv_bytes_per_layer(model))
    batches, seconds = zip(*speed.decode, strict=True)
    batch = np.clip(free / session_bytes, 1.0, float(batches[-1]))
    step_s = lengths * np.interp(batch, batches, seconds)
    if place & LAST:
        step_s = step_s + speed.head_s
    # As in throughput_curve: an eighth of a typical context is the least that can serve.
    rate: Floats = np.where(free >= session_bytes / 8, batch / step_s, 0.0)
    return rate


def _network_tokens_per_s(
    activation_bytes: int,
    uplink_bytes_per_s: float | None,
    downlink_bytes_per_s: float | None,
    place: int,
) -> float:
    limit = float("inf")
    if not place & LAST:
        limit = min(limit, _tokens(uplink_bytes_per_s, activation_bytes))
    if not place & FIRST:
        limit = min(limit, _tokens(downlink_bytes_per_s, activation_bytes))
    return limit


def _tokens(bytes_per_s: float | None, activation_bytes: int) -> float:
    if bytes_per_s is None:
        return float("inf")
    return bytes_per_s / max(1, activation_bytes) if bytes_per_s > 0 else 0.0
