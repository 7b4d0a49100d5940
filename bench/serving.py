"""The swarm beside one process: the same checkpoint, the same threads, turn by turn.

`transformers.generate` with batch 1, 8 and 32, and three peers (separate processes, libp2p on
loopback) with as many concurrent clients, one after the other in each round, so that a machine
whose speed drifts is fair to both; ratios are medians over the rounds. Figures: tokens/s, CPU-ms
per token over all processes (peers, daemons, bootstrap node and clients), time to first token, time
between tokens, memory; with --trace, where the time of a single stream's tokens went.

    ./scripts/bench serving [--model small|smollm2|both] [--concurrency 1,8,32] [--trace]
                            [--json FILE] [--write]
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from bench.served import cpu_s, family, prompts, run, served, small_model
from helix_p2p import Swarm
from helix_p2p.client.tracing import TraceSummary, lines, summarise
from helix_p2p.engine.smollm2 import fetch_smollm2
from tests.e2e.lab import Lab

PROMPT_TOKENS = 32
WARM_UP_TOKENS = 8
TRACED_TOKENS = 96
TARGETS = {  # concurrency: (CPU-ms per token at most, tokens/s at least), both against `generate`
    ("small", 1): (1.2, 0.85),
    ("smollm2", 1): (1.1, 0.95),
    ("small", 8): (1.35, 0.75),
    ("smollm2", 8): (1.35, 0.75),
    ("small", 32): (1.4, 0.75),
    ("smollm2", 32): (1.4, 0.75),
}
HOP_TARGET_S = 0.0015
NAMES = {"small": "8-layer h=512 Llama", "smollm2": "SmolLM2-135M"}
MEMORY_MB = {"smollm2": (330, 380, 450), "small": (140, 140, 170)}
"""So little that no peer holds the model, whatever the plan."""
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


@dataclass
class Figures:
    """One way of serving at one concurrency."""

    tokens_per_s: float
    cpu_ms_per_token: float
    first_token_s: float
    between_p50_s: float
    between_p99_s: float
    rss_bytes: int


class Alone:
    """`transformers.generate` in this process, one thread."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model.train(mode=False)

    def measure(self, batch: int, tokens: int) -> Figures:
        """One run, after a warm-up."""
        ids = torch.tensor(prompts(batch, self._model.config.vocab_size, PROMPT_TOKENS))
        self._run(ids, WARM_UP_TOKENS)
        started_s = time.perf_counter()
        self._run(ids, 1)
        first_s = time.perf_counter() - started_s
        started_s, before_s = time.perf_counter(), time.thread_time()
        self._run(ids, tokens)
        wall_s, used_s = time.perf_counter() - started_s, time.thread_time() - before_s
        made, rss = batch * tokens, psutil.Process().memory_info().rss
        each_s = wall_s / tokens
        return Figures(made / wall_s, used_s * 1e3 / made, first_s, each_s, each_s, rss)

    def _run(self, ids: torch.Tensor, tokens: int) -> None:
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )


async def ask(swarm: Swarm, prompt: list[int], tokens: int, delay_s: float) -> list[float]:
    """One client: moments of its start and of each token."""
    await asyncio.sleep(delay_s)
    moments = [time.perf_counter()]
    async with swarm.stream(prompt, max_tokens=tokens, ignore_eos=True) as stream:
        async for piece in stream:
            moments += [time.perf_counter()] * len(piece.tokens)
    return moments


async def together(made: Lab, swarm: Swarm, clients: int, tokens: int) -> Figures:
    """One run: clients that arrive at random within a tenth of a second."""
    asked = prompts(clients, swarm.manifest.vocab_size, PROMPT_TOKENS)
    rng = random.Random(clients)
    await asyncio.gather(*(ask(swarm, prompt, WARM_UP_TOKENS, 0) for prompt in asked))
    processes = family(made)
    before_s, started_s = cpu_s(processes.values()), time.perf_counter()
    runs = await asyncio.gather(
        *(ask(swarm, prompt, tokens, rng.uniform(0, 0.1)) for prompt in asked)
    )
    wall_s = time.perf_counter() - started_s
    count = sum(len(moments) - 1 for moments in runs)
    between = sorted(b - a for moments in runs for a, b in pairwise(moments[1:]))
    return Figures(
        count / wall_s,
        (cpu_s(processes.values()) - before_s) * 1e3 / count,
        statistics.median(moments[1] - moments[0] for moments in runs),
        between[len(between) // 2],
        between[int(len(between) * 0.99)],
        sum(p.memory_info().rss for name, p in processes.items() if name != "client"),
    )


async def traced(swarm: Swarm) -> TraceSummary:
    """Where the time of a single stream's tokens goes."""
    (prompt,) = prompts(1, swarm.manifest.vocab_size, PROMPT_TOKENS)
    stream = swarm.stream(prompt, max_tokens=TRACED_TOKENS, ignore_eos=True, trace=True)
    await stream.collect()
    summary = summarise(stream.traces)
    assert summary is not None, "every token has a trace"
    return summary


async def compare(
    name: str, folder: Path, concurrencies: Sequence[int], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Both ways at every concurrency."""
    rows: list[dict[str, Any]] = []
    alone = Alone(folder)
    async with (
        served(folder, MEMORY_MB[name]) as made,
        Swarm.connect(await made.guest()) as swarm,
    ):
        for n in concurrencies:
            pairs = []
            for _ in range(options.runs):
                by_itself = await asyncio.to_thread(alone.measure, n, options.tokens)
                pairs.append((by_itself, await together(made, swarm, n, options.tokens)))
            rows.append({"model": name, "concurrency": n, **_medians(pairs)})
            if options.trace and n == 1:
                rows[-1]["trace"] = asdict(await traced(swarm))
    return rows


def _medians(pairs: list[tuple[Figures, Figures]]) -> dict[str, Any]:
    def middle(figures: list[Figures]) -> dict[str, float]:
        every = [asdict(one) for one in figures]
        return {name: statistics.median(one[name] for one in every) for name in every[0]}

    return {
        "generate": middle([alone for alone, _ in pairs]),
        "swarm": middle([swarm for _, swarm in pairs]),
        "cpu_ratio": statistics.median(s.cpu_ms_per_token / a.cpu_ms_per_token for a, s in pairs),
        "rate_ratio": statistics.median(s.tokens_per_s / a.tokens_per_s for a, s in pairs),
    }


COLUMNS = (
    "model",
    "clients",
    "tokens/s, swarm / generate",
    "ratio (target)",
    "CPU-ms a token, swarm / generate",
    "ratio (target)",
    "first token",
    "between tokens p50 / p99",
    "memory, all processes",
)


def cells(row: dict[str, Any]) -> tuple[list[str], bool]:
    """A row as people read it, and whether its targets are kept."""
    alone, swarm = row["generate"], row["swarm"]
    most_cpu, least_rate = TARGETS[row["model"], row["concurrency"]]
    cpu, rate = row["cpu_ratio"], row["rate_ratio"]
    shown = [
        NAMES[row["model"]],
        str(row["concurrency"]),
        f"{swarm['tokens_per_s']:.1f} / {alone['tokens_per_s']:.1f}",
        f"{rate:.2f} (≥ {least_rate}{'' if rate >= least_rate else ', missed'})",
        f"{swarm['cpu_ms_per_token']:.1f} / {alone['cpu_ms_per_token']:.1f}",
        f"{cpu:.2f} (≤ {most_cpu}{'' if cpu <= most_cpu else ', missed'})",
        f"{swarm['first_token_s'] * 1e3:.0f} ms",
        f"{swarm['between_p50_s'] * 1e3:.0f} / {swarm['between_p99_s'] * 1e3:.0f} ms",
        f"{swarm['rss_bytes'] / 1e9:.1f} GB",
    ]
    return shown, cpu <= most_cpu and rate >= least_rate


def show(rows: list[dict[str, Any]]) -> bool:
    """Print the tables; whether every target holds."""
    table = Table(title="swarm of 3 processes beside one `generate`, medians of turns")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    holds = True
    for row in rows:
        shown, kept = cells(row)
        holds &= kept
        table.add_row(*shown)
    console = Console(width=130)
    console.print(table)
    for row in rows:
        if "trace" in row:
            summary = TraceSummary(**row["trace"])
            kept = summary.hop_s <= HOP_TARGET_S
            holds &= kept
            target = f"target {HOP_TARGET_S * 1e3:g} ms: {'kept' if kept else 'missed'}"
            console.print(f"\n{NAMES[row['model']]}, 1 client ({target})")
            console.print("\n".join(lines(summary)), highlight=False)
    return holds


def write(rows: list[dict[str, Any]], text: str) -> str:
    """The page with the rows of these measurements in their places, and the day."""
    for row in rows:
        shown = "| " + " | ".join(cells(row)[0]) + " |"
        place = re.compile(
            rf"^\| {NAMES[row['model']]} \| {row['concurrency']} \|.*$", re.MULTILINE
        )
        text, found = place.subn(shown, text)
        assert found == 1, f"no row for {row['model']}, {row['concurrency']} in {PAGE}"
    today = f"{datetime.now(tz=UTC):%Y-%m-%d}"
    return re.sub(r"(`./scripts/bench serving[^`]*`, )\d{4}-\d\d-\d\d", rf"\g<1>{today}", text)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="bench serving", description=__doc__)
    parser.add_argument("--model", choices=("small", "smollm2", "both"), default="both")
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--trace", action="store_true", help="show where a stream's time goes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help=f"update {PAGE.name}")
    options = parser.parse_args()
    concurrencies = [int(n) for n in options.concurrency.split(",")]
    rows: list[dict[str, Any]] = []
    for name, make in (("small", small_model), ("smollm2", fetch_smollm2)):
        if options.model in (name, "both"):
            rows += run(compare(name, make(), concurrencies, options))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.write:
        PAGE.write_text(write(rows, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0 if show(rows) else 1)


if __name__ == "__main__":
    main()
