"""What a swarm takes that nobody asks anything, and what its daemons' sleep is worth.

A bootstrap node, three peers and a client that are connected and idle: CPU time and wake-ups of
each process, on Linux. With `--slack` one stream runs besides, its daemons in turns with the timer
slack that Linux gives a process and with ours (`net/daemon_start.py`).

    ./scripts/bench rest [--seconds 25] [--turns 4] [--slack] [--json FILE]
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import psutil

from bench.report import Line, Report
from bench.served import cpu_s, family, prompts, run, served, small_model
from bench.serving import MEMORY_MB, PROMPT_TOKENS, ask
from helix_p2p import Swarm
from helix_p2p.net.daemon_start import DAEMON_SLACK_S

SETTLE_S = 20.0
"""After the first request: measurements between peers and the planner's first solves."""
USUAL_SLACK_S = 50e-6
STREAM_TOKENS = 96
Processes = dict[str, psutil.Process]


async def at_rest(processes: Processes, seconds: float, turns: int, report: Report) -> None:
    """CPU time and wake-ups of each process, medians over turns."""
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(turns):
        before = {name: _used(process) for name, process in processes.items()}
        began_s = time.monotonic()
        await asyncio.sleep(seconds)
        passed_s = time.monotonic() - began_s
        for name, process in processes.items():
            cpu, wakes = (b - a for a, b in zip(before[name], _used(process), strict=True))
            taken[name].append((cpu * 1e3 / passed_s, wakes / passed_s))
    medians = {name: _medians(turns) for name, turns in taken.items()}
    for name, (cpu_ms, wakes) in medians.items():
        said = f"{cpu_ms:.1f} CPU-ms and {wakes:.0f} wake-ups a second"
        report.add(Line("at rest", name, said, figures={"cpu_ms": cpu_ms, "wakes": wakes}))
    total_ms = sum(cpu_ms for cpu_ms, _ in medians.values())
    report.add(Line("at rest", "together", f"{total_ms:.1f} CPU-ms a second"))


def _used(process: psutil.Process) -> tuple[float, float]:
    """CPU seconds and wake-ups so far."""
    return cpu_s([process]), float(_switches([process]))


def _medians(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    first, second = zip(*pairs, strict=True)
    return statistics.median(first), statistics.median(second)


async def sleeps(swarm: Swarm, processes: Processes, turns: int, report: Report) -> None:
    """One stream under both timer slacks of the daemons, in turns."""
    daemons = [process for name, process in processes.items() if "daemon" in name]
    prompt = prompts(1, swarm.manifest.vocab_size, PROMPT_TOKENS)[0]
    taken: dict[float, list[tuple[float, float]]] = {USUAL_SLACK_S: [], DAEMON_SLACK_S: []}
    for _ in range(turns):
        for slack_s, found in taken.items():
            _set_slack(daemons, slack_s)
            await ask(swarm, prompt, 4, 0)
            before_s, before = cpu_s(daemons), _switches(daemons)
            await ask(swarm, prompt, STREAM_TOKENS, 0)
            used_ms = (cpu_s(daemons) - before_s) * 1e3
            found.append((used_ms / STREAM_TOKENS, (_switches(daemons) - before) / STREAM_TOKENS))
    for slack_s, found in taken.items():
        cpu_ms, switches = _medians(found)
        said = f"{cpu_ms:.2f} CPU-ms and {switches:.0f} thread switches a token"
        figures: dict[str, float | int | str | None] = {"cpu_ms": cpu_ms, "switches": switches}
        name = f"timer slack {slack_s * 1e3:g} ms"
        report.add(Line("daemons of one stream", name, said, figures=figures))


def _set_slack(processes: Iterable[psutil.Process], slack_s: float) -> None:
    for process in processes:
        for thread in process.threads():
            Path(f"/proc/{thread.id}/timerslack_ns").write_text(f"{slack_s * 1e9:.0f}")


def _switches(processes: Iterable[psutil.Process]) -> int:
    """How often a thread of theirs has gone to sleep of its own accord."""
    total = 0
    for process in processes:
        for thread in process.threads():
            with contextlib.suppress(FileNotFoundError):
                said = Path(f"/proc/{thread.id}/status").read_text()
                total += int(said.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return total


async def rest(options: argparse.Namespace, report: Report) -> None:
    """Measure and report."""
    async with (
        served(small_model(), MEMORY_MB["small"]) as made,
        Swarm.connect(await made.guest()) as swarm,
    ):
        await ask(swarm, prompts(1, swarm.manifest.vocab_size, PROMPT_TOKENS)[0], 8, 0)
        await asyncio.sleep(SETTLE_S)
        processes = family(made)
        await at_rest(processes, options.seconds, options.turns, report)
        if options.slack:
            await sleeps(swarm, processes, options.turns, report)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="bench rest", description=__doc__)
    parser.add_argument("--seconds", type=float, default=25.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--slack", action="store_true", help="needs root")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.turns < 1 or not options.seconds > 0:
        parser.error("turns and seconds are above zero")
    report = Report("a swarm at rest")
    run(rest(options, report))
    sys.exit(report.finish(options.json))


if __name__ == "__main__":
    main()
