"""The engine: slices of one model on one torch device, serving many sessions.

Implements `contract.Engine`. A step packs all its rows into one sequence (attention.py), so prefill
chunks and decode steps of any number of sessions cost one pass over the weights. Always: checks
come before anything is computed, so a refused step changes nothing; layers that stay are never read
again; what is announced as KV room is the memory budget minus the weights really held, and minus
what steps were found to need beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from helix_p2p.cluster.manifest import Manifest
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.engine.architecture import Absent, read_architecture
from helix_p2p.engine.attention import Row
from helix_p2p.engine.checkpoint import check_layers, open_checkpoint
from helix_p2p.engine.contract import PreparedLayers, StepResult, StepRow
from helix_p2p.engine.graphs import recorder_for
from helix_p2p.engine.hashes import WeightGuard
from helix_p2p.engine.memory import is_out_of_memory, release_cached
from helix_p2p.engine.quantised import Quantisation
from helix_p2p.engine.runner import Rows, Runner
from helix_p2p.engine.sampling import sample
from helix_p2p.engine.slices import LoadedSlice, load_slice, weight_bytes
from helix_p2p.engine.spans import Head, Span
from helix_p2p.engine.spec import kv_geometry, spec_of
from helix_p2p.engine.wireformat import DTYPES, check_finite
from helix_p2p.errors import (
    NotServing,
    OutOfMemory,
    PoisonedActivation,
    PromptTooLong,
    ProtocolError,
)
from helix_p2p.session.prefixes import KvCopy
from helix_p2p.types import LayerRange, SessionId

HELD_BACK_PARTS = 16
"""A step that found no memory costs the KV cache this part of the budget."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a model is held.

    Attributes:
        memory_bytes: For weights and KV cache together.
        device: As torch names it: `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `f32`, `bf16` or `f16`; of weights, KV cache and activations.
        quantisation: How the layers' matrices are held instead.
        rows: How a step's rows are attended to.
        graphs: Record decode steps and replay them, where the device can.
    """

    memory_bytes: int
    device: str = "cpu"
    dtype: str = "f32"
    quantisation: Quantisation = Quantisation.NONE
    rows: Rows = Rows.AUTO
    graphs: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """Implements `contract.PreparedLayers`.

    Attributes:
        layers: What was asked for.
        loaded: What of it was not held yet; None when everything was.
    """

    layers: LayerRange
    loaded: LoadedSlice | None


class TorchEngine:
    """Implements `contract.Engine` for every architecture in architecture.py."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        config: EngineConfig,
        guard: WeightGuard | None = None,
    ) -> None:
        """Read what the model is; no weights yet.

        Args:
            folder: The model's.
            manifest: Of the model.
            config: How it is held.
            guard: Checks each tensor that is read; None where nobody vouches for the files.

        Raises:
            ModelError: The folder cannot be served.
        """
        self._config = config
        self._dtype = DTYPES[config.dtype]
        self._device = torch.device(config.device)
        self._architecture, whole = read_architecture(folder)
        self._checkpoint = open_checkpoint(folder, guard)
        ignored = getattr(whole, "_keys_to_ignore_on_load_unexpected", None) or ()
        check_layers(
            self._checkpoint, self._architecture.layers, self._architecture.layer_count, ignored
        )
        self._spec = spec_of(manifest, self._architecture, whole, self._dtype, config.quantisation)
        self._runner = Runner(
            self._architecture,
            kv_geometry(self._architecture, whole, self._dtype),
            self._device,
            config.rows,
            recorder_for(self._device) if config.graphs else None,
        )
        self._pool = self._runner.pool
        self._layers: dict[int, nn.Module] = {}
        self._shell: nn.Module | None = None
        self._start = self._end = False
        self._spans: dict[LayerRange, Span] = {}
        self._head: Head | None = None
        self._held_back_bytes = 0
        self._steps_are_fine = True

    @property
    def spec(self) -> ModelSpec:
        """The model's sizes as resident here."""
        return self._spec

    @property
    def held(self) -> frozenset[int]:
        """Layers that are loaded."""
        return frozenset(self._layers)

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights held now."""
        shell = [] if self._shell is None else [self._shell]
        return weight_bytes([*shell, *self._layers.values()])

    @property
    def kv_capacity_token_layers(self) -> int:
        """KV room with the layers now held, in tokens × layers."""
        return self._pool.capacity_token_layers

    @property
    def kv_used_token_layers(self) -> int:
        """Of it, how much is reserved now."""
        return self._pool.used_token_layers

    # ── layers ─────────────────────────────────────────────────────────────────────────────────

    def prepare(self, layers: LayerRange) -> Prepared:
        """Read the weights of `layers` that are not held yet; any thread.

        Raises:
            ModelError: Files are missing or corrupt.
            OutOfMemory: They do not fit.
        """
        if layers.end > self._spec.layers:
            raise NotServing(f"layers {layers} of a model with {self._spec.layers}")
        missing = [index for index in layers if index not in self._layers]
        start = layers.start == 0 and not self._start
        end = layers.end == self._spec.layers and not self._end
        if not (missing or start or end):
            return Prepared(layers, None)
        wanted = len(missing) * self._spec.layer_bytes
        wanted += start * self._spec.embedding_bytes + end * self._spec.head_bytes
        room = self._config.memory_bytes - self.weight_bytes
        if wanted > room:
            raise OutOfMemory(
                f"layers {layers} need {wanted / 1e9:.2f} GB more, {max(0, room) / 1e9:.2f} GB of "
                f"{self._config.memory_bytes / 1e9:.2f} GB are free"
            )
        loaded = load_slice(
            self._architecture,
            self._checkpoint,
            missing,
            start=start,
            end=end,
            dtype=self._dtype,
            device=self._device,
            attention=self._runner.attention_name,
            quantisation=self._config.quantisation,
        )
        return Prepared(layers, loaded)

    def install(self, prepared: PreparedLayers) -> None:
        """Make prepared layers part of the engine; engine thread."""
        assert isinstance(prepared, Prepared)
        loaded = prepared.loaded
        if loaded is None:
            return
        for index, layer in loaded.layers.items():
            self._layers.setdefault(index, layer)
        if self._shell is None:
            self._shell = loaded.shell
        else:
            self._adopt_ends(self._shell, loaded)
        self._start |= loaded.start
        self._end |= loaded.end
        self._share_tied()
        self._layers_changed()

    def retain(self, layers: LayerRange) -> None:
        """Drop every held layer outside `layers`, and sessions that ran one; engine thread."""
        self._layers = {
            i: layer for i, layer in self._layers.items() if i in range(layers.start, layers.end)
        }
        self._pool.close_outside(self.held)
        if self._shell is not None and not self._layers:
            self._shell = None
            self._start = self._end = False
        if self._shell is not None:
            if self._start and 0 not in self._layers:
                _absent(self._shell, self._paths_before())
                self._start = False
            if self._end and self._spec.layers - 1 not in self._layers:
                _absent(self._shell, self._paths_after())
                self._end = False
        self._layers_changed()

    def _adopt_ends(self, shell: nn.Module, loaded: LoadedSlice) -> None:
        paths = self._paths_before() if loaded.start else ()
        paths += self._paths_after() if loaded.end else ()
        for path in paths:
            shell.set_submodule(path, loaded.shell.get_submodule(path))

    def _share_tied(self) -> None:
        """Hold a tensor that is tied once where both ends are here."""
        if self._shell is not None and self._start and self._end:
            for target, source in self._architecture.tied.items():
                path, _, name = target.rpartition(".")
                owner = self._shell.get_submodule(path)
                setattr(owner, name, self._shell.get_parameter(source))

    def _paths_before(self) -> tuple[str, ...]:
        architecture = self._architecture
        return tuple(f"{architecture.decoder}.{name}" for name in architecture.before)

    def _paths_after(self) -> tuple[str, ...]:
        architecture = self._architecture
        inner = tuple(f"{architecture.decoder}.{name}" for name in architecture.after)
        return inner + architecture.head

    def _layers_changed(self) -> None:
        self._held_back_bytes = 0
        self._spans.clear()
        self._runner.forget()
        self._head = None
        if self._shell is not None and self._end:
            self._head = Head(self._architecture, self._shell)
        self._set_capacity()

    def _set_capacity(self) -> None:
        free = 0
        if self._layers:
            free = self._config.memory_bytes - self.weight_bytes - self._held_back_bytes
        self._pool.capacity_token_layers = max(0, free) // self._spec.kv_bytes_per_token

    def _hold_back(self) -> None:
        """A step found no memory: leave it more from now on, until layers come or go.

        Repeats of the same step, in halves, count as one.
        """
        if self._steps_are_fine:
            self._steps_are_fine = False
            more = self._config.memory_bytes // HELD_BACK_PARTS
            most = self._config.memory_bytes // 2
            self._held_back_bytes = min(most, self._held_back_bytes + more)
            self._set_capacity()
        release_cached(self._device)

    # ── sessions ───────────────────────────────────────────────────────────────────────────────

    def open(
        self,
        session: SessionId,
        layers: LayerRange,
        kv_tokens: int,
        begin: KvCopy | None = None,
    ) -> None:
        """Reserve a KV cache over `layers`; engine thread. See `contract.Engine.open`.

        Raises:
            Busy: There is no room, or what it should begin with is not there.
            NotServing: Some of the layers are not held.
            PromptTooLong: The model was not made for so many positions.
        """
        self._span(layers)
        if kv_tokens > self._spec.context_tokens:
            raise PromptTooLong(
                f"{kv_tokens} tokens do not fit into the model's context of "
                f"{self._spec.context_tokens}"
            )
        self._pool.open(session, layers, kv_tokens)
        if begin is not None:
            self._pool.copy(begin.source, session, begin.positions)

    def close(self, session: SessionId) -> None:
        """Free a session's cache; unknown sessions are ignored; engine thread."""
        self._pool.close(session)

    def length(self, session: SessionId) -> int | None:
        """Positions in a session's cache; None when it has none here."""
        kv = self._pool.get(session)
        return None if kv is None else kv.length

    def step(
        self,
        layers: LayerRange,
        rows: Sequence[StepRow],
        *,
        tokens: Sequence[int] | None = None,
        hidden: torch.Tensor | None = None,
    ) -> StepResult:
        """Run rows through `layers`; engine thread. See `contract.Engine.step`.

        Raises:
            PoisonedActivation: `hidden` has a wrong shape or is not finite, or this slice makes
                numbers that are not.
            ProtocolError: A row's positions leave a gap or exceed its reservation.
            NotServing: Layers or sessions are not here.
            OutOfMemory: The device has no room for the batch.
        """
        span = self._span(layers)
        packed = self._pack(layers, rows)
        count = packed[-1].offset + packed[-1].tokens
        try:
            with torch.inference_mode():
                ids = self._ids(layers, tokens, count)
                states = self._states(layers, hidden, count)
                out = self._runner.run(span, packed, ids, states)
                self._steps_are_fine = True
                for row in packed:
                    row.kv.length = max(row.kv.length, row.position + row.tokens)
                if layers.end < self._spec.layers:
                    out = out.to("cpu")
                    check_finite(out)  # float16 may overflow; the next stage must not get it
                    return StepResult(out)
                return StepResult(None, self._choose(rows, packed, out))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._hold_back()
            raise OutOfMemory(f"no memory for a batch of {count} tokens") from error

    def _span(self, layers: LayerRange) -> Span:
        span = self._spans.get(layers)
        if span is not None:
            return span
        if self._shell is None or not self.held.issuperset(layers):
            raise NotServing(f"layers {layers} are not all held here")
        modules = [self._layers[index] for index in layers]
        span = self._spans[layers] = Span(self._architecture, self._shell, layers.start, modules)
        return span

    def _pack(self, layers: LayerRange, rows: Sequence[StepRow]) -> list[Row]:
        if not rows:
            raise ProtocolError("a step without rows")
        packed = []
        offset = 0
        seen = set()
        for row in rows:
            kv = self._pool.get(row.session)
            if kv is None or kv.layers != layers:
                raise NotServing(f"session {row.session.hex()} is not open for layers {layers}")
            if row.session in seen:
                raise ProtocolError(f"session {row.session.hex()} twice in one step")
            seen.add(row.session)
            kv.check(row.position, row.count)
            if row.position + row.count > self._spec.context_tokens:
                raise ProtocolError(f"position {row.position} is beyond the model's context")
            packed.append(Row(kv, row.position, row.count, offset))
            offset += row.count
        return packed

    def _ids(
        self, layers: LayerRange, tokens: Sequence[int] | None, count: int
    ) -> torch.Tensor | None:
        if layers.start > 0:
            return None
        if tokens is None or len(tokens) != count:
            raise ProtocolError(f"{len(tokens or ())} token ids for {count} positions")
        if min(tokens) < 0 or max(tokens) >= self._spec.vocab_size:
            raise ProtocolError(f"a token id outside the vocabulary of {self._spec.vocab_size}")
        return torch.tensor(tokens, dtype=torch.long, device=self._device)[None]

    def _states(
        self, layers: LayerRange, hidden: torch.Tensor | None, count: int
    ) -> torch.Tensor | None:
        if layers.start == 0:
            return None
        shape = (count, self._spec.d_model)
        if hidden is None or tuple(hidden.shape) != shape or not hidden.is_floating_point():
            given = "none" if hidden is None else f"{tuple(hidden.shape)} of {hidden.dtype}"
            raise PoisonedActivation(f"activations {given}, not {shape}")
        check_finite(hidden)
        return hidden.to(self._device, self._dtype)[None]

    def _choose(
        self, rows: Sequence[StepRow], packed: Sequence[Row], out: torch.Tensor
    ) -> tuple[int | None, ...]:
        asked = [number for number, row in enumerate(rows) if row.sample is not None]
        chosen: list[int | None] = [None] * len(rows)
        if not asked:
            return tuple(chosen)
        assert self._head is not None
        last = [packed[number].offset + packed[number].tokens - 1 for number in asked]
        logits = self._head.run(out if len(last) == len(out) else out[last])
        best, tokens = (found.tolist() for found in logits.max(-1))
        for place, number in enumerate(asked):
            wish = rows[number].sample
            assert wish is not None
            if not math.isfinite(best[place]):
                raise PoisonedActivation("logits that are not finite")
            if wish.sampling.temperature <= 0 and wish.sampling.repetition_penalty == 1.0:
                chosen[number] = tokens[place]
            else:
                scores = logits[place]
                chosen[number] = sample(scores, wish.sampling, wish.position, wish.history)
        return tuple(chosen)


def _absent(shell: nn.Module, paths: Sequence[str]) -> None:
    for path in paths:
        shell.set_submodule(path, Absent())
