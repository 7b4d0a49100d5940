"""How fast this device is with a model: measured once, remembered on disk, used by the planner.

A peer that joins measures what its announcement needs; `helix-peer bench` measures with more
patience, and also what people want to know: time against context, the ends, loading. Both keep what
they measured in one place, so a bench sharpens the next join. Always: a profile on disk is used
only for the same model, device, dtype, quantisation, thread count and torch.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import platformdirs
import torch

from helix_p2p import codec
from helix_p2p.cluster.manifest import Manifest
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.engine.memory import is_out_of_memory
from helix_p2p.engine.torch_engine import EngineConfig, TorchEngine
from helix_p2p.engine.trial import TrialLayers
from helix_p2p.errors import ModelError, OutOfMemory
from helix_p2p.types import LayerRange

DECODE_BATCHES = (1, 4, 8, 32)
PREFILL_TOKENS = (32, 128)
CONTEXT_TOKENS = 384
"""Cached positions of each decoding session."""
CONTEXTS_TOKENS = (128, 1024, 4096)
"""Of a bench's points against context, as far as the model reaches."""
BUDGET_S = 0.2
"""For repeats of one point when a peer joins."""
BENCH_BUDGET_S = 1.0

Progress = Callable[[int, int], None]
"""Called with (points measured, points in all)."""


@dataclass(frozen=True, slots=True)
class Point:
    """Seconds per layer of one kind of step.

    Attributes:
        batch: Sessions, for decode; tokens of the chunk, for prefill.
        context_tokens: Cached before.
        layer_s: Seconds per layer.
    """

    batch: int
    context_tokens: int
    layer_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a bench measures besides the speed that is announced.

    Attributes:
        decode: Against batch and context.
        prefill: Against chunk and context.
        head_s: (batch, seconds of final norm, head and choice).
        load_bytes_per_s: Weights read, checked and put onto the device; None without weights.
    """

    decode: tuple[Point, ...]
    prefill: tuple[Point, ...]
    head_s: tuple[tuple[int, float], ...]
    load_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is remembered.

    Attributes:
        speed: What is announced.
        figures: The rest; None after a join or a quick bench.
    """

    speed: SpeedProfile
    figures: Figures | None = None


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
    path = _place(manifest, config, device_name, cache)
    if (known := _load(path)) is not None:
        return known.speed
    with _one_at_a_time(path.parent):
        if (known := _load(path)) is not None:  # another peer on this machine was first
            return known.speed
        measured = measure_speed(folder, config, progress=progress)
        _save(path, Measurement(measured))
    return measured


def measurement_of(
    folder: Path,
    manifest: Manifest,
    config: EngineConfig,
    *,
    device_name: str,
    quick: bool = False,
    again: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """All figures, for people; see `speed_of`, whose memory it shares.

    Args:
        folder: The model's; for the time of loading its weights are read as well.
        manifest: Of the model.
        config: How it will be held.
        device_name: Hardware, as in `Hardware.name`.
        quick: Only what a join measures.
        again: Measure even what is remembered.
        cache: Folder of remembered profiles; in the user's cache folder when None.
        progress: Told while it measures.

    Raises:
        ModelError: The model cannot be served in slices.
        OutOfMemory: The device has no room for a single layer.
    """
    path = _place(manifest, config, device_name, cache)
    with _one_at_a_time(path.parent):
        known = None if again else _load(path)
        if known is not None and (quick or known.figures is not None):
            return known
        if quick:
            measured = Measurement(measure_speed(folder, config, progress=progress))
        else:
            measured = measure_all(folder, manifest, config, progress=progress)
        _save(path, measured)
    return measured


_METHOD = 3
"""Rises when what is measured changes, so that remembered profiles are measured anew."""


def measure_speed(
    folder: Path, config: EngineConfig, *, progress: Progress | None = None
) -> SpeedProfile:
    """Measure seconds per layer, and the head's; see `speed_of`."""
    with _typed_memory(config):
        trial = TrialLayers.of_folder(folder, config)
        return _speed(trial, _Steps(len(DECODE_BATCHES) + len(PREFILL_TOKENS) + 1, progress))


def measure_all(
    folder: Path, manifest: Manifest, config: EngineConfig, *, progress: Progress | None = None
) -> Measurement:
    """Measure everything with patience; see `measurement_of`."""
    contexts = [c for c in CONTEXTS_TOKENS if c + max(PREFILL_TOKENS) <= manifest.context_tokens]
    contexts = contexts or [max(1, manifest.context_tokens // 2)]
    decode = [(batch, context) for context in contexts for batch in DECODE_BATCHES]
    prefill = [(size, context) for context in contexts for size in PREFILL_TOKENS]
    points = 2 * len(DECODE_BATCHES) + len(PREFILL_TOKENS) + 2 + len(decode) + len(prefill)
    with _typed_memory(config):
        steps = _Steps(points, progress)
        trial = TrialLayers.of_folder(folder, config)
        speed = _speed(trial, steps, BENCH_BUDGET_S)
        figures = Figures(
            tuple(
                Point(batch, context, steps.take(partial(trial.decode_s, batch, context), BUDGET_S))
                for batch, context in decode
            ),
            tuple(
                Point(size, context, steps.take(partial(trial.prefill_s, size, context), BUDGET_S))
                for size, context in prefill
            ),
            tuple((n, steps.take(partial(trial.head_s, n), BUDGET_S)) for n in DECODE_BATCHES),
        )
        del trial
        load = _load_bytes_per_s(folder, manifest, config)
        steps.done()
    return Measurement(speed, replace(figures, load_bytes_per_s=load))


class _Steps:
    """Counts what was measured."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def take(self, measure: Callable[[float], float], budget_s: float) -> float:
        seconds = measure(budget_s)
        self.done()
        return seconds

    def done(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)


def _speed(trial: TrialLayers, steps: _Steps, budget_s: float | None = None) -> SpeedProfile:
    budget_s = BUDGET_S if budget_s is None else budget_s

    def points(
        measure: Callable[[int, int, float], float], sizes: Iterable[int]
    ) -> tuple[tuple[int, float], ...]:
        return _rising(
            [(n, steps.take(partial(measure, n, CONTEXT_TOKENS), budget_s)) for n in sizes]
        )

    decode = points(trial.decode_s, DECODE_BATCHES)
    prefill = points(trial.prefill_s, PREFILL_TOKENS)
    head_s = steps.take(partial(trial.head_s, 1), budget_s)
    return SpeedProfile(prefill=prefill, decode=decode, head_s=head_s)


def _rising(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """More work never takes less time; where it seems to, the clock was disturbed."""
    result: list[tuple[int, float]] = []
    for size, seconds in reversed(points):
        result.append((size, min(seconds, result[-1][1]) if result else seconds))
    return tuple(reversed(result))


def _load_bytes_per_s(folder: Path, manifest: Manifest, config: EngineConfig) -> float | None:
    """How fast the model's last layer gets from the disk to the device."""
    last = LayerRange(manifest.layers - 1, manifest.layers)
    try:
        engine = TorchEngine(folder, manifest, config)
        began = time.perf_counter()
        engine.install(engine.prepare(last))
        taken_s = time.perf_counter() - began
    except (ModelError, OutOfMemory):
        return None
    return engine.weight_bytes / taken_s


@contextmanager
def _typed_memory(config: EngineConfig) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{config.device} has no room for one layer") from error


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


def _place(manifest: Manifest, config: EngineConfig, device_name: str, cache: Path | None) -> Path:
    key = (
        manifest.manifest_hash,
        device_name,
        config.device,
        config.dtype,
        config.quantisation,
        config.rows,
        config.graphs,
        torch.get_num_threads(),
        str(torch.__version__),
        _METHOD,
    )
    name = codec.sha256(codec.encode(key)).hex()[:24]
    return (cache or Path(platformdirs.user_cache_dir("helix-p2p")) / "speed") / f"{name}.json"


def _load(path: Path) -> Measurement | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Measurement)
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return None


def _save(path: Path, measured: Measurement) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(msgspec.json.encode(measured))
        os.replace(file.name, path)  # noqa: PTH105
    except OSError:
        return  # it is measured again next time
