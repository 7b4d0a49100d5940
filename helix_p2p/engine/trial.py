"""Some layers with random weights and the model's real shapes, to be timed before any are held.

There are so many of them that they do not fit a CPU's cache, as the real ones will not. They run
through the engine's own path (runner.py). Always: nothing of the checkpoint but its configuration
is read; caches that a timing opened are closed again.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from helix_p2p.engine.architecture import Architecture, read_architecture
from helix_p2p.engine.attention import Row
from helix_p2p.engine.graphs import recorder_for
from helix_p2p.engine.kv import KvPool, SessionKv
from helix_p2p.engine.merged_layer import merged
from helix_p2p.engine.quantised import quantise
from helix_p2p.engine.runner import Runner
from helix_p2p.engine.slices import weight_bytes
from helix_p2p.engine.spans import Head, Span
from helix_p2p.engine.spec import kv_geometry
from helix_p2p.engine.torch_engine import EngineConfig
from helix_p2p.engine.wide_linear import widened
from helix_p2p.engine.wireformat import DTYPES
from helix_p2p.types import LayerRange, SessionId

BEYOND_CACHE_BYTES = 96 * 1024**2
"""Larger than most CPUs' last-level cache."""
MOST_REPEATS = 10


@dataclass(slots=True)
class TrialLayers:
    """Layers, final norm and head, ready to run."""

    architecture: Architecture
    layers: LayerRange
    span: Span
    head: Head
    runner: Runner
    pool: KvPool
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of_folder(cls, folder: Path, config: EngineConfig) -> "TrialLayers":
        """The last layers of the model whose configuration lies in `folder`.

        Raises:
            ModelError: The model cannot be served in slices.
            torch.OutOfMemoryError: They do not fit.
        """
        return cls.of_model(*read_architecture(folder), config)

    @classmethod
    def of_model(
        cls, architecture: Architecture, model: nn.Module, config: EngineConfig
    ) -> "TrialLayers":
        """The last layers of a model on the meta device; it is used up."""
        dtype, device = DTYPES[config.dtype], torch.device(config.device)
        geometry = kv_geometry(architecture, model, dtype)
        recorder = recorder_for(device) if config.graphs else None
        runner = Runner(architecture, geometry, device, config.rows, recorder)
        pool = runner.pool
        inner = model.get_submodule(architecture.decoder)
        whole: Any = getattr(inner, architecture.layers)
        layer = weight_bytes([whole[-1].to(dtype)])
        # the last layers: the first ones of mixtures of experts are often small dense ones
        count = min(architecture.layer_count, max(1, -(-BEYOND_CACHE_BYTES // layer)))
        start = architecture.layer_count - count
        setattr(inner, architecture.layers, nn.ModuleList(whole[start:]))
        for name in architecture.before:
            setattr(inner, name, nn.Identity())
        shell: Any = model
        shell.to(dtype).to_empty(device=device)
        shell.initialize_weights()
        shell.set_attn_implementation(runner.attention_name)
        for name in architecture.head:
            shell.set_submodule(name, widened(shell.get_submodule(name)))
        layers = list(getattr(inner, architecture.layers))
        for held in layers:
            quantise(held, config.quantisation)
        layers = [merged(layer) for layer in layers]
        span = Span(architecture, shell, max(start, 1), layers)
        pool.capacity_token_layers = 2**62
        return cls(
            architecture=architecture,
            layers=LayerRange(start, architecture.layer_count),
            span=span,
            head=Head(architecture, shell.eval()),
            runner=runner,
            pool=pool,
            dtype=dtype,
            device=device,
        )

    def decode_s(self, batch: int, context_tokens: int, budget_s: float) -> float:
        """Seconds per layer of one step of `batch` sessions with so many cached positions each."""
        rows = [
            Row(self._open(number, context_tokens + 1), context_tokens, 1, number)
            for number in range(batch)
        ]
        return self._layer_s(rows, budget_s)

    def prefill_s(self, tokens: int, context_tokens: int, budget_s: float) -> float:
        """Seconds per layer of a chunk that comes after `context_tokens` of its prompt."""
        opened = self._open(0, context_tokens + tokens)
        return self._layer_s([Row(opened, context_tokens, tokens, 0)], budget_s)

    def head_s(self, batch: int, budget_s: float) -> float:
        """Seconds of final norm, head and the choice of `batch` tokens."""
        hidden = torch.randn(batch, self.architecture.d_model, device=self.device).to(self.dtype)
        return self._seconds(lambda: self.head.run(hidden).argmax(-1).tolist(), budget_s)

    def _open(self, number: int, tokens: int) -> SessionKv:
        kv = self.pool.open(SessionId(number.to_bytes(16, "big")), self.layers, tokens)
        for tensor in (*kv.keys.values(), *kv.values.values()):
            tensor.zero_()
        return kv

    def _layer_s(self, rows: list[Row], budget_s: float) -> float:
        count = sum(row.tokens for row in rows)
        hidden = torch.randn(1, count, self.architecture.d_model, device=self.device)
        states = hidden.to(self.dtype)
        try:
            step_s = self._seconds(lambda: self.runner.run(self.span, rows, None, states), budget_s)
        finally:
            for number in range(len(rows)):
                self.pool.close(SessionId(number.to_bytes(16, "big")))
        return step_s / len(self.layers)

    def _seconds(self, work: Callable[[], object], budget_s: float) -> float:
        """The median of at least two runs and of at most ten, after one that warms up."""
        times: list[float] = []
        with torch.inference_mode():
            self._timed(work)
            while len(times) < 2 or (len(times) < MOST_REPEATS and sum(times) < budget_s):
                times.append(self._timed(work))
        return statistics.median(times)

    def _timed(self, work: Callable[[], object]) -> float:
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
