"""`helix-peer bench`: how fast this machine is with a model, and what a swarm would get from it.

Always: what is shown is what `join` announces, from the same memory on disk; the table goes to
stdout, progress to stderr.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from helix_p2p.cli.units import format_rate, format_size
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import throughput_curve
from helix_p2p.engine.hub import find_model
from helix_p2p.engine.profile import Measurement, Point, measurement_of
from helix_p2p.engine.torch_engine import TorchEngine
from helix_p2p.node.config import PeerConfig
from helix_p2p.node.lending import choose_device, held_in

MOST_ROWS = 8


@dataclass(frozen=True, slots=True)
class Holding:
    """What the machine does with so many layers and without either end.

    Attributes:
        layers: k.
        kv_tokens: Positions that fit beside them, over all k layers.
        tokens_per_s: T(k), without embedding and head.
    """

    layers: int
    kv_tokens: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Everything that is shown; see `engine.profile.Measurement`."""

    model: str
    device: str
    held_in: str
    memory_bytes: int
    spec: ModelSpec
    holdings: tuple[Holding, ...]
    measured: Measurement

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": self.model,
            "device": self.device,
            "held_in": self.held_in,
            "memory_bytes": self.memory_bytes,
            "layer_bytes": self.spec.layer_bytes,
            "kv_bytes_per_token": self.spec.kv_bytes_per_token,
            "holdings": [asdict(holding) for holding in self.holdings],
            **asdict(self.measured),
        }


def bench(config: PeerConfig, model: str, *, quick: bool, again: bool) -> BenchResult:
    """Measure, or remember, and work out what follows.

    Raises:
        ConfigError: The device is not there or cannot compute so.
        ModelError: The model cannot be served.
        OutOfMemory: Not even one layer fits.
    """
    hardware, engine_config = choose_device(config)
    found = find_model(model)
    folder = found.folder
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        reading = progress.add_task("reading", total=None)
        manifest = found.manifest(
            progress=lambda _, done, total: progress.update(reading, completed=done, total=total),
        )
        progress.remove_task(reading)
        task = progress.add_task("measuring", total=None)
        measured = measurement_of(
            folder,
            manifest,
            engine_config,
            device_name=hardware.name,
            quick=quick,
            again=again,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    held = TorchEngine(folder, manifest, engine_config).spec
    budget = engine_config.memory_bytes
    return BenchResult(
        model=found.name,
        device=hardware.name,
        held_in=held_in(engine_config),
        memory_bytes=budget,
        spec=held,
        holdings=_holdings(held, budget, measured),
        measured=measured,
    )


def _holdings(held: ModelSpec, budget_bytes: int, measured: Measurement) -> tuple[Holding, ...]:
    curve = throughput_curve(held, budget_bytes, measured.speed)
    return tuple(
        Holding(k, max(0, budget_bytes - k * held.layer_bytes) // (k * held.kv_bytes_per_token), t)
        for k, t in enumerate(curve, 1)
    )


def print_bench(result: BenchResult, *, as_json: bool) -> None:
    """The tables, or one JSON object."""
    if as_json:
        print(json.dumps(result.as_json(), indent=1))  # noqa: T201 (stdout is the result)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    console.print(
        f"[b]{result.model}[/] on {result.device}, {result.held_in}, "
        f"{format_size(result.memory_bytes)} of memory\n"
        f"a layer: {format_size(result.spec.layer_bytes)}; KV cache per token and layer: "
        f"{format_size(result.spec.kv_bytes_per_token)}",
        highlight=False,
    )
    speed, figures = result.measured.speed, result.measured.figures
    console.print(_speed_table(speed.decode, speed.prefill))
    if figures is not None:
        console.print(_points_table("decode, ms per layer", "batch", figures.decode))
        console.print(_points_table("prefill, ms per layer", "chunk", figures.prefill))
        heads = ", ".join(f"{n}: {s * 1e3:.2f} ms" for n, s in figures.head_s)
        console.print(f"norm, head and choice by batch: {heads}", highlight=False)
        if figures.load_bytes_per_s is not None:
            rate, taken_s = figures.load_bytes_per_s, result.spec.layer_bytes
            console.print(
                f"loading: {format_rate(rate)}, {taken_s / rate:.2f} s per layer", highlight=False
            )
    else:
        console.print(f"norm, head and choice: {speed.head_s * 1e3:.2f} ms", highlight=False)
    console.print(_holdings_table(result.holdings))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _speed_table(
    decode: Sequence[tuple[int, float]], prefill: Sequence[tuple[int, float]]
) -> Table:
    table = _table("announced: one layer", "step", "size", "ms", "tokens/s")
    for kind, points in (("decode", decode), ("prefill", prefill)):
        for size, seconds in points:
            table.add_row(kind, str(size), f"{seconds * 1e3:.2f}", f"{size / seconds:.0f}")
    return table


def _points_table(title: str, first: str, points: Sequence[Point]) -> Table:
    contexts = sorted({point.context_tokens for point in points})
    table = _table(title, first, *(f"after {context}" for context in contexts))
    by_place = {(point.batch, point.context_tokens): point.layer_s for point in points}
    for batch in sorted({point.batch for point in points}):
        cells = (by_place[batch, context] for context in contexts)
        table.add_row(str(batch), *(f"{seconds * 1e3:.2f}" for seconds in cells))
    return table


def _holdings_table(holdings: Sequence[Holding]) -> Table:
    table = _table("T(k): k layers held", "layers", "KV room, tokens", "tokens/s")
    step = max(1, -(-len(holdings) // MOST_ROWS))
    shown = [*holdings[::step]]
    if holdings and shown[-1] is not holdings[-1]:
        shown.append(holdings[-1])
    for holding in shown:
        table.add_row(str(holding.layers), str(holding.kv_tokens), f"{holding.tokens_per_s:.0f}")
    if not holdings:
        table.add_row("0", "0", "0")
    return table
