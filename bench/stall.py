"""A long prompt among running answers: how long these stop.

Eight clients decode on three peers; then prompts of 2,000 tokens arrive, one after another. In the
same run: time between tokens before (p50) and while a long prompt is fed (p50, p99).

    ./scripts/bench stall [--prompt 2000] [--clients 8] [--prompts 3] [--json FILE]
"""

import argparse
import asyncio
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

from bench.report import Line, Report
from bench.served import prompts, run, served, small_model
from helix_p2p import Swarm

MEMORY_MB = (190, 190, 190)
PROMPT_TOKENS = 32
ANSWER_TOKENS = 300
BEFORE_S = 8.0
PAUSE_S = 2.0
MOST_STALL = 3.0
"""p99 beside a long prompt, in times of the p50 without one."""


async def answers(swarm: Swarm, prompt: list[int], runs: list[list[float]]) -> None:
    """One client: answer after answer, and the moments of each one's tokens."""
    while True:
        moments: list[float] = []
        runs.append(moments)
        async with swarm.stream(prompt, max_tokens=ANSWER_TOKENS, ignore_eos=True) as stream:
            async for piece in stream:
                moments += [time.perf_counter()] * len(piece.tokens)


async def feed(swarm: Swarm, prompt: list[int]) -> tuple[float, float]:
    """A long prompt's begin, and the moment of its first token."""
    began_s = time.perf_counter()
    await swarm.generate(prompt, max_tokens=1, ignore_eos=True)
    return began_s, time.perf_counter()


def gaps(runs: list[list[float]], begin_s: float, end_s: float) -> list[float]:
    """Times between tokens that end within a period, ascending."""
    return sorted(
        late - early
        for moments in runs
        for early, late in pairwise(moments)
        if begin_s < late and early < end_s
    )


async def stall(clients: int, prompt_tokens: int, count: int, report: Report) -> None:
    """Measure and report."""
    async with (
        served(small_model(), MEMORY_MB) as made,
        Swarm.connect(await made.guest()) as swarm,
    ):
        vocabulary = swarm.manifest.vocab_size
        first, *long = prompts(count + 1, vocabulary, prompt_tokens)
        alone = await feed(swarm, first)
        runs: list[list[float]] = []
        asked = prompts(clients, vocabulary, PROMPT_TOKENS)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answers(swarm, prompt, runs)) for prompt in asked]
            while sum(len(moments) for moments in runs) < 16 * clients:  # noqa: ASYNC110 - warm
                await asyncio.sleep(0.05)
            began_s = time.perf_counter()
            await asyncio.sleep(BEFORE_S)
            quiet = gaps(runs, began_s, time.perf_counter())
            beside: list[float] = []
            firsts = []
            for prompt in long:
                begin_s, end_s = await feed(swarm, prompt)
                beside += gaps(runs, begin_s, end_s)
                firsts.append(end_s - begin_s)
                await asyncio.sleep(PAUSE_S)
            for task in tasks:
                task.cancel()
    _report(report, sorted(beside), quiet, firsts, alone[1] - alone[0])


def _report(
    report: Report, beside: list[float], quiet: list[float], firsts: list[float], alone_s: float
) -> None:
    before_s = statistics.median(quiet)
    shown = {"p50": quiet[len(quiet) // 2], "p99": quiet[int(len(quiet) * 0.99)]}
    report.add(_line("between tokens, before", shown, None))
    shown = {"p50": statistics.median(beside), "p99": beside[int(len(beside) * 0.99)]}
    shown["longest"] = beside[-1]
    holds = shown["p99"] <= MOST_STALL * before_s
    report.add(_line("between tokens, beside a long prompt", shown, holds))
    ratio = shown["p99"] / before_s
    target = f"at most {MOST_STALL:g}"
    report.add(Line("stall", "p99 beside / p50 before", f"{ratio:.2f}", target, holds))
    first_s = statistics.median(firsts)
    figures: dict[str, float | int | str | None] = {"beside_s": first_s, "alone_s": alone_s}
    said = f"{first_s:.2f} s; alone {alone_s:.2f} s"
    report.add(Line("long prompt", "first token", said, figures=figures))


def _line(name: str, seconds: dict[str, float], holds: bool | None) -> Line:
    shown = ", ".join(f"{key} {value * 1e3:.0f} ms" for key, value in seconds.items())
    return Line("stall", name, shown, holds=holds, figures=dict(seconds))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="bench stall", description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=2000, metavar="TOKENS")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = Report(f"{options.clients} running answers and prompts of {options.prompt} tokens")
    run(stall(options.clients, options.prompt, options.prompts, report))
    sys.exit(report.finish(options.json))


if __name__ == "__main__":
    main()
