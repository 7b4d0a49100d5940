"""A stage's compute, modelled: how long a step takes, and a KV cache that cannot lie.

No numbers are multiplied. A row's payload is the layer it has come to; the cache remembers which
positions it holds. A token comes out right only if every layer ran on every position in order, so
a machine that loses, repeats or reorders a row is found out at the first wrong token.

Always: a step's time comes from the stage's measured tables; a token is a pure function of
(generation, position).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from helix_p2p.session.decode_rows import DecodeRows
from helix_p2p.session.effects import OpenCache, RunStep, StepRow
from helix_p2p.session.messages import Forward, Phase
from helix_p2p.sim.helix.replay import CONCAT_BYTES_PER_S, COPY_BYTES_PER_S
from helix_p2p.sim.helix.setup import StageSetup
from helix_p2p.types import SessionId

VOCAB = 32_000
_MIX = 0x9E3779B97F4A7C15


def true_token(seed: int, position: int) -> int:
    """The only right token at a position of a generation."""
    mixed = ((seed + 1) * _MIX + position * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    return (mixed ^ (mixed >> 29)) % VOCAB


def prompt_of(seed: int, tokens: int) -> tuple[int, ...]:
    """A prompt of at least two tokens that says which generation it is."""
    return (seed % VOCAB, seed // VOCAB, *(position % VOCAB for position in range(2, tokens)))


def seed_in(prompt: Sequence[int]) -> int:
    """Which generation a prompt belongs to."""
    return prompt[0] + VOCAB * prompt[1]


class BrokenInvariant(AssertionError):
    """The machines did something that they must never do."""


class SimEngine(Protocol):
    """What a simulated peer computes with."""

    slowness: float

    @property
    def caches(self) -> int:
        """Open KV caches."""

    def open(self, effect: OpenCache) -> None:
        """Open a cache; one over the same layers keeps what it holds."""

    def close(self, session: SessionId) -> None:
        """Free a cache."""

    def seconds(self, step: RunStep[Any]) -> float:
        """How long a step takes."""

    def run(self, step: RunStep[Any]) -> Sequence[int | None] | None:
        """Compute a step: what each row sampled; None where a cache is gone."""

    def inputs(self, message: Forward) -> Sequence[Any]:
        """By row, the payload of a frame of tokens."""

    def outputs(self, step: RunStep[Any], rows: Sequence[int]) -> Sequence[Any]:
        """By row, what goes on from the step that just ended."""


@dataclass(frozen=True, slots=True)
class _Cache:
    span: tuple[int, int]
    room: int


class ModelledEngine:
    """One peer's engine.

    Args:
        setup: Time tables.
        layers: Of the model.
        activation_bytes: Of one token.
        seeds: Which generation a pipeline carries; shared by the swarm, learnt from the prompts.
    """

    def __init__(
        self, setup: StageSetup, layers: int, activation_bytes: int, seeds: dict[SessionId, int]
    ) -> None:
        self._setup = setup
        self._layers = layers
        self._seeds = seeds
        self._copy_s = activation_bytes * (1 / CONCAT_BYTES_PER_S + 1 / COPY_BYTES_PER_S)
        self._caches: dict[SessionId, _Cache] = {}
        # By span and session, the last position that is written; one look per row is all it takes.
        self._written: dict[tuple[int, int], dict[SessionId, int]] = {}
        self.slowness = 1.0

    @property
    def caches(self) -> int:
        """Open KV caches."""
        return len(self._caches)

    def open(self, effect: OpenCache) -> None:
        """Open a cache; one over the same layers keeps what it holds."""
        span = (effect.layers.start, effect.layers.end)
        written = self._written.setdefault(span, {})
        last = written.get(effect.session, -1)
        if effect.begin is not None:
            last = effect.begin.positions - 1
            if written.get(effect.begin.source, -1) < last:
                raise BrokenInvariant(f"{last + 1} positions were to be copied, and are not there")
        self.close(effect.session)
        self._caches[effect.session] = _Cache(span, effect.kv_tokens)
        written[effect.session] = last

    def close(self, session: SessionId) -> None:
        """Free a cache, unless it holds more than it has room for."""
        cache = self._caches.pop(session, None)
        if cache is not None:
            filled = self._written[cache.span].pop(session) + 1
            if filled > cache.room:
                raise BrokenInvariant(f"{filled} positions in room for {cache.room}")

    def seconds(self, step: RunStep[int]) -> float:
        """How long a step takes: its layers, and the copies on the way in."""
        if step.phase is Phase.DECODE:
            tokens = len(step.rows)
            per_layer_s = self._setup.decode_s[min(tokens, len(self._setup.decode_s) - 1)]
        else:
            tokens = sum(row.count for row in step.rows)
            most = len(self._setup.prefill_s) - 1
            per_layer_s = self._setup.prefill_s[min(tokens, most)] * max(1.0, tokens / most)
            # A chunk reads the weights once, however short it is.
            per_layer_s = max(per_layer_s, self._setup.decode_s[1])
        return self.slowness * (len(step.layers) * per_layer_s + tokens * self._copy_s)

    def run(self, step: RunStep[int]) -> Sequence[int | None] | None:
        """Write the caches and sample where a token is wanted; None where a cache is gone.

        Args:
            step: What the machine asked for; payloads are the layer each row has come to.

        Raises:
            BrokenInvariant: A row does not continue its cache or comes to the wrong layer.
        """
        rows, span = step.rows, (step.layers.start, step.layers.end)
        names: Sequence[SessionId]
        if isinstance(rows, DecodeRows):
            names, payloads, positions = rows.sessions, rows.payloads, rows.positions
        else:
            names, payloads = [row.session for row in rows], [row.payload for row in rows]
            positions = ()
        if payloads.count(span[0]) != len(names):
            raise BrokenInvariant(f"rows that have come to {payloads} are at {span}")
        written = self._written[span]
        if positions and list(map(written.get, names)) == [p - 1 for p in positions]:
            written.update(zip(names, positions, strict=True))
        elif any(name not in self._caches for name in names):
            return None
        else:
            self._write(rows, written)
        if span[1] < self._layers:
            return (None,) * len(names)
        return [
            true_token(self._seeds[row.session], row.position + row.count) if row.wanted else None
            for row in rows
        ]

    @staticmethod
    def _write(rows: Sequence[StepRow[int]], written: dict[SessionId, int]) -> None:
        """Write each row's positions into its cache, where they may begin before its end."""
        for row in rows:
            last = written.get(row.session)
            if last is None or row.position > last + 1:
                raise BrokenInvariant(f"position {row.position} after {last}, or other layers")
            written[row.session] = max(last, row.position + row.count - 1)

    def inputs(self, message: Forward) -> Sequence[int]:
        """Tokens are at layer 0; which generation they are of is seen in a prompt's beginning."""
        if message.phase is Phase.PREFILL:
            start = 0
            for session, position, count in zip(
                message.sessions, message.positions, message.counts, strict=True
            ):
                if position == 0:
                    self._seeds[session] = seed_in(message.tokens[start : start + 2])
                start += count
        return (0,) * len(message.sessions)

    def outputs(self, step: RunStep[int], rows: Sequence[int]) -> Sequence[int]:
        """Where a step ends, its rows have come to."""
        return (step.layers.end,) * len(rows)
