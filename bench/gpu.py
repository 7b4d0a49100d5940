"""How near one layer on a GPU comes to what the device could do.

A decode step cannot be faster than its bytes through memory (weights once, each session's cache
once) nor a prefill chunk faster than its operations, so the larger of the two, over the device's
own measured bandwidth and rate, is the limit that each figure stands beside. Layers have the shapes
of Llama's 7B and 70B models and random weights. Without a GPU there is nothing to measure, and that
is said.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.report import Line, Report
from helix_p2p.engine.architecture import Architecture, dissect
from helix_p2p.engine.hardware import find_hardware
from helix_p2p.engine.memory import is_out_of_memory, release_cached
from helix_p2p.engine.quantised import Quantisation, check_computable, quantised_bytes
from helix_p2p.engine.torch_engine import EngineConfig
from helix_p2p.engine.trial import TrialLayers
from helix_p2p.engine.wireformat import DTYPES
from helix_p2p.errors import ConfigError, HelixError

SHAPES: dict[str, dict[str, Any]] = {
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32},
    "70B": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4},
}
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CHUNKS = (128, 256)
CONTEXT_TOKENS = 1024
BUDGET_S = 0.5


@dataclass(frozen=True, slots=True)
class Device:
    """What it could do.

    Attributes:
        bytes_per_s: Of a large copy, read and written.
        ops_per_s: Of a large product in the compute dtype.
    """

    name: str
    bytes_per_s: float
    ops_per_s: float


@dataclass(frozen=True, slots=True)
class Case:
    """One way to hold a layer."""

    shape: str
    how: Quantisation
    graphs: bool


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="bench gpu", description=__doc__)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="default: 7B and 70B")
    parser.add_argument("--device", help="cuda:1, mps, or cpu to try the bench itself")
    parser.add_argument("--quick", action="store_true", help="batch 1 and 16 only")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for docs")
    asked = parser.parse_args()
    if asked.device is None and not (
        torch.cuda.is_available() or torch.backends.mps.is_available()
    ):
        print("bench gpu: there is no GPU here, so nothing was measured", file=sys.stderr)  # noqa: T201
        return
    try:
        hardware = find_hardware(asked.device)
        dtype = hardware.dtype
        device = measure_device(hardware.name, torch.device(hardware.device), DTYPES[dtype])
    except (HelixError, RuntimeError) as error:  # no such device, a driver too old, no memory
        sys.exit(f"bench gpu: {error}")
    report = Report(
        f"One layer on {device.name}, {dtype}: {device.bytes_per_s / 1e9:.0f} GB/s, "
        f"{device.ops_per_s / 1e12:.1f} Tops/s"
    )
    graphs = (False, True) if hardware.device.startswith("cuda") else (False,)
    for shape, how, recorded in product(asked.shape or ("7B", "70B"), Quantisation, graphs):
        case = Case(shape, how, recorded)
        group = f"{shape} {dtype if how is Quantisation.NONE else how}"
        try:
            check_computable(hardware.device, DTYPES[dtype], how)
            batches = (1, 16) if asked.quick else BATCHES
            for line in measure(case, hardware.device, dtype, device, group, batches):
                report.add(line)
        except ConfigError as error:
            report.add(Line(group, "not measured", str(error)))
        except (HelixError, RuntimeError) as error:  # one case hides no other
            release_cached(torch.device(hardware.device))
            first = (str(error).splitlines() or [""])[0]
            if is_out_of_memory(error):
                report.add(Line(group, "not measured", f"no memory for it: {first}"))
            else:
                report.add(Line(group, "failed", first, "no error", holds=False))
    if asked.markdown is not None:
        write_markdown(asked.markdown, report)
    sys.exit(report.finish(asked.json))


def measure_device(name: str, device: torch.device, dtype: torch.dtype) -> Device:
    """Bandwidth and rate, the best of a few tries each."""
    small = device.type == "cpu"
    data = torch.zeros(2**24 if small else 2**29, dtype=torch.uint8, device=device)
    side = 512 if small else 8192
    matrix = torch.randn(side, side, device=device).to(dtype)
    copy_s = min(_timed(device, data.clone) for _ in range(5))
    product_s = min(_timed(device, lambda: matrix @ matrix) for _ in range(5))
    return Device(name, 2 * data.nbytes / copy_s, 2 * side**3 / product_s)


def measure(
    case: Case, device: str, dtype: str, could: Device, group: str, batches: tuple[int, ...]
) -> Iterator[Line]:
    """A line per batch and chunk."""
    config = EngineConfig(1 << 40, device, dtype, case.how, graphs=case.graphs)
    architecture, model = _model(case.shape)
    layer = model.model.layers[0]
    weights = quantised_bytes(layer, case.how, DTYPES[dtype])
    elements = sum(parameter.numel() for parameter in layer.parameters())
    trial = TrialLayers.of_model(architecture, model, config)
    per_position = trial.pool.geometry.bytes_per_token
    for batch in batches:
        seconds = trial.decode_s(batch, CONTEXT_TOKENS, BUDGET_S)
        moved = weights + batch * CONTEXT_TOKENS * per_position
        name = f"decode {batch}" + (" replayed" if case.graphs else "")
        yield _line(group, name, seconds, moved, 2 * elements * batch, could)
    for chunk in CHUNKS if not case.graphs else ():
        seconds = trial.prefill_s(chunk, CONTEXT_TOKENS, BUDGET_S)
        moved = weights + (CONTEXT_TOKENS + chunk) * per_position
        yield _line(group, f"prefill {chunk}", seconds, moved, 2 * elements * chunk, could)


def write_markdown(path: Path, report: Report) -> None:
    """The table, for docs/."""
    rows = [f"| {line.group} | {line.name} | {line.value} |" for line in report.lines]
    head = [f"# {report.title}", "", "Made by `./scripts/bench gpu --markdown`.", ""]
    table = ["| layer | step | time, and the limit |", "|---|---|---|", *rows, ""]
    path.write_text("\n".join([*head, *table]), encoding="utf-8")


def _line(group: str, name: str, seconds: float, moved_bytes: int, ops: int, could: Device) -> Line:
    limit_s = max(moved_bytes / could.bytes_per_s, ops / could.ops_per_s)
    figures: dict[str, float | int | str | None] = {
        "seconds": seconds,
        "limit_s": limit_s,
        "bytes": moved_bytes,
        "operations": ops,
    }
    value = f"{seconds * 1e3:.3f} ms, {seconds / limit_s:.1f} × the limit of {limit_s * 1e3:.3f} ms"
    return Line(group, name, value, figures=figures)


def _model(shape: str) -> tuple[Architecture, LlamaForCausalLM]:
    sizes: dict[str, Any] = {"vocab_size": 32_000, "max_position_embeddings": 4096}
    config = LlamaConfig(num_hidden_layers=2, **sizes, **SHAPES[shape])
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    return dissect(config, model), model


def _timed(device: torch.device, work: object) -> float:
    assert callable(work)
    for repeat in range(2):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        if repeat:
            return time.perf_counter() - began
    raise AssertionError("unreachable")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


if __name__ == "__main__":
    main()
