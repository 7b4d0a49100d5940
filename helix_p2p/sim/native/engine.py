"""A stage's compute, modelled: how long a step takes, and a KV cache that cannot lie.

No numbers are multiplied. A row's payload is the layer it has come to; the cache remembers which
positions it holds. A token comes out right only if every layer ran on every position in order, so
a machine that loses, repeats or reorders a row is found out at the first wrong token.

Always: a step's time comes from the stage's measured tables; a token is a pure function of
(generation, position).
"""

from collections.abc import Sequence

from helix_p2p.session.effects import OpenCache, RunStep
from helix_p2p.session.messages import Phase
from helix_p2p.sim.helix.replay import CONCAT_BYTES_PER_S, COPY_BYTES_PER_S
from helix_p2p.sim.helix.setup import StageSetup
from helix_p2p.types import LayerRange, SessionId

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


class ModelledEngine:
    """One peer's engine.

    Args:
        setup: Time tables.
        layers: Of the model.
        activation_bytes: Of one token.
    """

    def __init__(self, setup: StageSetup, layers: int, activation_bytes: int) -> None:
        self._setup = setup
        self._layers = layers
        self._copy_s = activation_bytes * (1 / CONCAT_BYTES_PER_S + 1 / COPY_BYTES_PER_S)
        self._caches: dict[SessionId, tuple[LayerRange, int, int]] = {}
        self.slowness = 1.0

    @property
    def caches(self) -> int:
        """Open KV caches."""
        return len(self._caches)

    def open(self, effect: OpenCache) -> None:
        """Open a cache; one over the same layers keeps what it holds."""
        known = self._caches.get(effect.session)
        filled = known[2] if known is not None and known[0] == effect.layers else 0
        self._caches[effect.session] = (effect.layers, effect.kv_tokens, filled)

    def close(self, session: SessionId) -> None:
        """Free a cache."""
        self._caches.pop(session, None)

    def holds(self, step: RunStep[int]) -> bool:
        """Whether every row's cache is still open."""
        return all(row.session in self._caches for row in step.rows)

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

    def run(self, step: RunStep[int], seeds: Sequence[int]) -> list[int | None]:
        """Write the caches and sample where a token is wanted.

        Args:
            step: What the machine asked for; payloads are the layer each row has come to.
            seeds: By row, which generation it is.

        Raises:
            BrokenInvariant: A row does not continue its cache or comes to the wrong layer.
        """
        tokens: list[int | None] = []
        for row, seed in zip(step.rows, seeds, strict=True):
            layers, room, filled = self._caches[row.session]
            end = row.position + row.count
            if layers != step.layers or row.payload != layers.start:
                raise BrokenInvariant(f"a row at layer {row.payload} came to {layers}")
            if row.position > filled or end > room:
                raise BrokenInvariant(f"positions {row.position}–{end} of {filled} in {room}")
            self._caches[row.session] = (layers, room, max(filled, end))
            wanted = row.last is not None
            if wanted and layers.end != self._layers:
                raise BrokenInvariant(f"{layers} is not the last stage")
            tokens.append(true_token(seed, end) if wanted else None)
        return tokens
