"""How long one layer takes on this device, measured with the model's real shapes.

A few layers with random weights are enough, so a peer knows its speed before it holds any part of
the model; there are so many of them that they do not fit a CPU's cache, as the real ones will not.
The layers run through the engine's own path. Always: a profile on disk is used only for the same
model, device, dtype, thread count and torch.
"""

import fcntl
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import platformdirs
import torch
from torch import nn

from helix_p2p import codec
from helix_p2p.cluster.manifest import Manifest
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.engine.architecture import Architecture, read_architecture
from helix_p2p.engine.attention import PackedAttention, Row
from helix_p2p.engine.kv import KvPool, SessionKv
from helix_p2p.engine.slices import Head, Span, weight_bytes
from helix_p2p.engine.spec import kv_geometry
from helix_p2p.engine.torch_engine import EngineConfig
from helix_p2p.engine.wireformat import DTYPES
from helix_p2p.errors import OutOfMemory
from helix_p2p.types import LayerRange, SessionId

DECODE_BATCHES = (1, 4, 8, 32)
PREFILL_TOKENS = (32, 128)
CONTEXT_TOKENS = 384
"""Cached positions of each decoding session."""
BEYOND_CACHE_BYTES = 96 * 1024**2
"""Larger than most CPUs' last-level cache."""
BUDGET_S = 0.2
"""For repeats of one point; the median of at least two and at most ten counts."""

Progress = Callable[[int, int], None]
"""Called with (points measured, points in all)."""


def speed_of(
    folder: Path,
    manifest: Manifest,
    config: EngineConfig,
    *,
    device_name: str,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> SpeedProfile:
    """The device's speed with this model, remembered or measured.

    Args:
        folder: The model's; only its configuration is read.
        manifest: Of the model.
        config: How it will be held.
        device_name: Hardware, as in `Hardware.name`.
        cache: Folder of remembered profiles; in the user's cache folder when None.
        progress: Told while it measures.

    Raises:
        ModelError: The model cannot be served in slices.
        OutOfMemory: The device has no room for a single layer.
    """
    threads = torch.get_num_threads()
    key = (manifest.manifest_hash, device_name, config.device, config.dtype, threads)
    name = codec.sha256(codec.encode((*key, str(torch.__version__), _METHOD))).hex()[:24]
    path = (cache or Path(platformdirs.user_cache_dir("helix-p2p")) / "speed") / f"{name}.json"
    if (known := _load(path)) is not None:
        return known
    with _one_at_a_time(path.parent):
        if (known := _load(path)) is not None:  # another peer on this machine was first
            return known
        measured = measure_speed(folder, config, progress=progress)
        _save(path, measured)
    return measured


_METHOD = 2
"""Rises when what is measured changes, so that remembered profiles are measured anew."""


def measure_speed(
    folder: Path, config: EngineConfig, *, progress: Progress | None = None
) -> SpeedProfile:
    """Measure seconds per layer, and the head's; see `speed_of`."""
    try:
        return _measure(_Bench.build(folder, config), progress)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{config.device} has no room for one layer") from error


def _measure(bench: "_Bench", progress: Progress | None) -> SpeedProfile:
    total = len(DECODE_BATCHES) + len(PREFILL_TOKENS) + 1
    done = 0

    def step(measure: Callable[[], float]) -> float:
        nonlocal done
        seconds = measure()
        done += 1
        if progress:
            progress(done, total)
        return seconds

    decode = [(batch, step(lambda b=batch: bench.decode_s(b))) for batch in DECODE_BATCHES]  # type: ignore[misc]
    prefill = [(size, step(lambda n=size: bench.prefill_s(n))) for size in PREFILL_TOKENS]  # type: ignore[misc]
    return SpeedProfile(prefill=_rising(prefill), decode=_rising(decode), head_s=step(bench.head_s))


def _rising(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """More work never takes less time; where it seems to, the clock was disturbed."""
    result: list[tuple[int, float]] = []
    for size, seconds in reversed(points):
        result.append((size, min(seconds, result[-1][1]) if result else seconds))
    return tuple(reversed(result))


@dataclass(slots=True)
class _Bench:
    """Some layers with random weights, ready to run."""

    architecture: Architecture
    layers: LayerRange
    span: Span
    head: Head
    attention: PackedAttention
    pool: KvPool
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def build(cls, folder: Path, config: EngineConfig) -> "_Bench":
        architecture, model = read_architecture(folder)
        dtype, device = DTYPES[config.dtype], torch.device(config.device)
        pool = KvPool(kv_geometry(architecture, model, dtype), device)
        attention = PackedAttention(
            stock=None if architecture.packed else "eager", latent=architecture.latent
        )
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
        shell.set_attn_implementation(attention.name)
        layers = list(getattr(inner, architecture.layers))
        span = Span(architecture, shell, max(start, 1), layers)
        pool.capacity_token_layers = 2**62
        return cls(
            architecture=architecture,
            layers=LayerRange(start, architecture.layer_count),
            span=span,
            head=Head(architecture, shell.eval()),
            attention=attention,
            pool=pool,
            dtype=dtype,
            device=device,
        )

    def decode_s(self, batch: int) -> float:
        """Seconds per layer of one step of `batch` sessions."""
        sessions = [SessionId(number.to_bytes(16, "big")) for number in range(batch)]
        opened = [self._open(session, CONTEXT_TOKENS + 1) for session in sessions]
        rows = [Row(kv, CONTEXT_TOKENS, 1, number) for number, kv in enumerate(opened)]
        try:
            return self._seconds(lambda: self._run(rows)) / len(self.layers)
        finally:
            for session in sessions:
                self.pool.close(session)

    def prefill_s(self, tokens: int) -> float:
        """Seconds per layer of a chunk in the middle of a prompt."""
        session = SessionId(bytes(16))
        rows = [Row(self._open(session, CONTEXT_TOKENS + tokens), CONTEXT_TOKENS, tokens, 0)]
        try:
            return self._seconds(lambda: self._run(rows)) / len(self.layers)
        finally:
            self.pool.close(session)

    def head_s(self) -> float:
        """Seconds of final norm, head and the choice of a token."""
        hidden = torch.randn(1, self.architecture.d_model, device=self.device).to(self.dtype)
        return self._seconds(lambda: self.head.run(hidden).argmax().item())

    def _open(self, session: SessionId, tokens: int) -> SessionKv:
        kv = self.pool.open(session, self.layers, tokens)
        for tensor in (*kv.keys.values(), *kv.values.values()):
            tensor.zero_()
        return kv

    def _run(self, rows: list[Row]) -> None:
        if not self.architecture.packed and len(rows) > 1:
            for row in rows:
                self._run([row._replace(offset=0)])
            return
        count = sum(row.tokens for row in rows)
        hidden = torch.randn(1, count, self.architecture.d_model, device=self.device)
        numbers = [p for row in rows for p in range(row.position, row.position + row.tokens)]
        mask = None
        if not self.attention.packed:
            mask = torch.ones(1, numbers[-1] + 1, dtype=torch.long, device=self.device)
        self.attention.begin(rows)
        self.span.run(
            tokens=None,
            hidden=hidden.to(self.dtype),
            positions=torch.tensor([numbers], device=self.device),
            cache=self.attention,
            mask=mask,
        )
        self.attention.end()

    def _seconds(self, work: Callable[[], object]) -> float:
        times: list[float] = []
        with torch.inference_mode():
            self._timed(work)
            while len(times) < 2 or (len(times) < 10 and sum(times) < BUDGET_S):
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


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Peers that start together on one machine would make each other look slow."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "measuring.lock").open("w")
    except OSError:
        yield  # nowhere to meet
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _load(path: Path) -> SpeedProfile | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=SpeedProfile)
    except (OSError, msgspec.DecodeError, ValueError):
        return None


def _save(path: Path, profile: SpeedProfile) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(msgspec.json.encode(profile))
        os.replace(file.name, path)  # noqa: PTH105
    except OSError:
        return  # it is measured again next time
