"""The swarm beside one process: the same checkpoint, the same threads, the same run.

`transformers.generate` with batch 1, 8 and 32, then three peers (separate processes, libp2p on
loopback) with as many concurrent clients. Figures: tokens/s, CPU-ms per token over all processes
(peers, daemons, bootstrap node and clients), time to first token, time between tokens, memory.

    ./scripts/bench serving [--model small|smollm2|both] [--concurrency 1,8,32] [--json FILE]
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from bench.served import cpu_s, family, prompts, served, small_model
from helix_p2p import Swarm
from helix_p2p.engine.smollm2 import fetch_smollm2
from tests.e2e.lab import Lab

PROMPT_TOKENS = 32
WARM_UP_TOKENS = 8
TARGETS = {  # concurrency: (CPU-ms per token at most, tokens/s at least), both against `generate`
    ("small", 1): (1.2, 0.85),
    ("smollm2", 1): (1.1, 0.95),
    ("small", 8): (1.35, 0.75),
    ("smollm2", 8): (1.35, 0.75),
    ("small", 32): (1.4, 0.75),
    ("smollm2", 32): (1.4, 0.75),
}
MEMORY_MB = {"smollm2": (330, 380, 450), "small": (140, 140, 170)}
"""So little that no peer holds the model, whatever the plan."""


@dataclass
class Figures:
    """One way of serving at one concurrency."""

    tokens_per_s: float
    cpu_ms_per_token: float
    first_token_s: float
    between_p50_s: float | None
    between_p99_s: float | None
    rss_bytes: int


def measure_generate(folder: Path, batch: int, tokens: int, runs: int) -> Figures:
    """`transformers.generate` in this process."""
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    ids = torch.tensor(prompts(batch, model.config.vocab_size, PROMPT_TOKENS))
    mask = torch.ones_like(ids)

    def run(new: int) -> None:
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
            )

    run(WARM_UP_TOKENS)
    walls, cpus, firsts = [], [], []
    for _ in range(runs):
        started_s = time.perf_counter()
        run(1)
        firsts.append(time.perf_counter() - started_s)
        started_s, cpu_s = time.perf_counter(), time.process_time()
        run(tokens)
        walls.append(time.perf_counter() - started_s)
        cpus.append(time.process_time() - cpu_s)
    wall_s, made = statistics.median(walls), batch * tokens
    return Figures(
        made / wall_s,
        statistics.median(cpus) * 1e3 / made,
        statistics.median(firsts),
        wall_s / tokens,
        None,
        psutil.Process().memory_info().rss,
    )


async def ask(swarm: Swarm, prompt: list[int], tokens: int, delay_s: float) -> list[float]:
    """One client: moments of its start and of each token."""
    await asyncio.sleep(delay_s)
    moments = [time.perf_counter()]
    async with swarm.stream(prompt, max_tokens=tokens, ignore_eos=True) as stream:
        async for piece in stream:
            moments += [time.perf_counter()] * len(piece.tokens)
    return moments


async def measure_swarm(made: Lab, swarm: Swarm, clients: int, tokens: int, runs: int) -> Figures:
    """Clients that arrive at random within a tenth of a second."""
    asked = prompts(clients, swarm.manifest.vocab_size, PROMPT_TOKENS)
    rng = random.Random(clients)
    await asyncio.gather(*(ask(swarm, prompt, WARM_UP_TOKENS, 0) for prompt in asked))
    rates, cpus, firsts, between = [], [], [], []
    for _ in range(runs):
        processes = family(made).values()
        before_s, started_s = cpu_s(processes), time.perf_counter()
        runs_of_clients = await asyncio.gather(
            *(ask(swarm, prompt, tokens, rng.uniform(0, 0.1)) for prompt in asked)
        )
        wall_s = time.perf_counter() - started_s
        made_tokens = sum(len(moments) - 1 for moments in runs_of_clients)
        rates.append(made_tokens / wall_s)
        cpus.append((cpu_s(processes) - before_s) * 1e3 / made_tokens)
        for moments in runs_of_clients:
            firsts.append(moments[1] - moments[0])
            between += [b - a for a, b in pairwise(moments[1:])]
    between.sort()
    return Figures(
        statistics.median(rates),
        statistics.median(cpus),
        statistics.median(firsts),
        between[len(between) // 2],
        between[int(len(between) * 0.99)],
        sum(p.memory_info().rss for name, p in family(made).items() if name != "client"),
    )


async def compare(
    name: str, folder: Path, concurrencies: Sequence[int], tokens: int, runs: int
) -> list[dict[str, object]]:
    """Both ways at every concurrency."""
    rows: list[dict[str, object]] = []
    alone = {n: measure_generate(folder, n, tokens, runs) for n in concurrencies}
    async with (
        served(folder, MEMORY_MB[name]) as made,
        Swarm.connect(await made.guest()) as swarm,
    ):
        for n in concurrencies:
            together = await measure_swarm(made, swarm, n, tokens, runs)
            rows.append(
                {
                    "model": name,
                    "concurrency": n,
                    "generate": asdict(alone[n]),
                    "swarm": asdict(together),
                    "cpu_ratio": together.cpu_ms_per_token / alone[n].cpu_ms_per_token,
                    "rate_ratio": together.tokens_per_s / alone[n].tokens_per_s,
                }
            )
    return rows


def show(rows: list[dict[str, object]]) -> bool:
    """Print the table; whether every target holds."""
    table = Table(title="swarm of 3 processes beside one `generate`, medians")
    for column in (
        "model",
        "clients",
        "tok/s",
        "ratio",
        "CPU-ms/tok",
        "ratio",
        "TTFT",
        "gap p50/p99",
    ):
        table.add_column(column, justify="right")
    holds = True
    for row in rows:
        alone, swarm = row["generate"], row["swarm"]
        assert isinstance(alone, dict)
        assert isinstance(swarm, dict)
        most_cpu, least_rate = TARGETS[str(row["model"]), int(str(row["concurrency"]))]
        cpu, rate = float(str(row["cpu_ratio"])), float(str(row["rate_ratio"]))
        holds &= cpu <= most_cpu and rate >= least_rate
        table.add_row(
            str(row["model"]),
            str(row["concurrency"]),
            f"{swarm['tokens_per_s']:.1f} / {alone['tokens_per_s']:.1f}",
            f"{rate:.2f} (≥ {least_rate})",
            f"{swarm['cpu_ms_per_token']:.1f} / {alone['cpu_ms_per_token']:.1f}",
            f"{cpu:.2f} (≤ {most_cpu})",
            f"{swarm['first_token_s'] * 1e3:.0f} ms",
            f"{swarm['between_p50_s'] * 1e3:.1f} / {swarm['between_p99_s'] * 1e3:.1f} ms",
        )
    Console(width=110).print(table)
    return holds


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="bench serving", description=__doc__)
    parser.add_argument("--model", choices=("small", "smollm2", "both"), default="both")
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    concurrencies = [int(n) for n in options.concurrency.split(",")]
    rows: list[dict[str, object]] = []
    for name, make in (("small", small_model), ("smollm2", fetch_smollm2)):
        if options.model in (name, "both"):
            rows += asyncio.run(compare(name, make(), concurrencies, options.tokens, options.runs))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    sys.exit(0 if show(rows) else 1)


if __name__ == "__main__":
    main()
