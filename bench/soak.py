"""Hours in minutes: mixed load on three peers, and whether anything grows or stays.

Short and long prompts, seeded sampling, aborts, slow readers, bursts beyond the KV room, and client
processes that are stopped, frozen or killed in the middle. Measured: memory, file descriptors and
threads of every process; whether equal seeds give equal answers; whether every room is free at
the end; whether anything is left behind.

    ./scripts/bench soak --minutes 60 [--requests-per-s 0.5] [--json FILE]
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from bench.report import Line, Report
from bench.served import cpu_s, family, run, served, tiny_model
from helix_p2p import Swarm
from helix_p2p.cli.control import ask_status
from helix_p2p.client.results import Options
from helix_p2p.errors import HelixError
from tests.e2e.lab import Command, Lab

MEMORY_MB = (18, 18, 18)
SAMPLE_S = 5.0
WARM_UP = 0.2
"""Share of the run before growth is judged; caches, arenas and thread pools fill meanwhile."""
MOST_GROWTH = 0.05
SPARE_BYTES = 2 * 1024 * 1024
"""Go's collector and malloc's arenas move a process by this much without a leak."""
SPARE_COUNT = 2
"""A stream that happens to be open, at both ends, when the sample is taken."""
FREE_WITHIN_S = 15.0
"""A client that was killed is noticed at once, a frozen one when its daemon's time is up."""
VANISH_EVERY_S = 45.0
SEEDS = 5
KINDS = {"short": 8, "long": 2, "seeded": 4, "abort": 3, "slow": 2, "burst": 1}


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int


@dataclass
class Outcome:
    """What the load met."""

    requests: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    answers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    compared: int = 0
    differing: int = 0
    vanished: Counter[str] = field(default_factory=Counter)


class Load:
    """Requests of many kinds.

    Args:
        swarm: To ask.
        rng: Of all chance.
    """

    def __init__(self, swarm: Swarm, rng: random.Random) -> None:
        self._swarm = swarm
        self._rng = rng
        self.outcome = Outcome()

    async def run(self, until_s: float, per_s: float) -> None:
        """Start requests at random moments until the time, then wait for them."""
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until_s:
                (kind,) = self._rng.choices(list(KINDS), list(KINDS.values()))
                group.create_task(self._guarded(kind))
                await asyncio.sleep(self._rng.expovariate(per_s))

    async def _guarded(self, kind: str) -> None:
        self.outcome.requests[kind] += 1
        ask: Callable[[], Awaitable[None]] = getattr(self, f"_{kind}")
        try:
            await ask()
        except HelixError as error:
            self.outcome.errors[f"{kind}: {type(error).__name__}"] += 1

    async def _ask(
        self,
        prompt: int,
        tokens: int,
        *,
        pause_s: float = 0.0,
        stop_after: int | None = None,
        seed: int | None = None,
    ) -> tuple[int, ...]:
        rng = self._rng if seed is None else random.Random(seed)
        vocabulary = self._swarm.manifest.vocab_size
        ids = [rng.randrange(10, vocabulary) for _ in range(prompt)]
        options: Options = {"max_tokens": tokens, "ignore_eos": True}
        if seed is not None:
            options |= {"temperature": 0.8, "top_p": 0.95, "seed": seed}
        got: list[int] = []
        stream = self._swarm.stream(ids, **options)
        async with stream:
            async for piece in stream:
                got += piece.tokens
                self.outcome.tokens += len(piece.tokens)
                if stop_after is not None and len(got) >= stop_after:
                    break
                if pause_s:
                    await asyncio.sleep(pause_s)
        return tuple(got)

    async def _short(self) -> None:
        await self._ask(self._rng.randint(4, 64), self._rng.randint(4, 48))

    async def _long(self) -> None:
        await self._ask(self._rng.randint(400, 1500), self._rng.randint(4, 16))

    async def _seeded(self) -> None:
        seed = self._rng.randrange(SEEDS)
        got = await self._ask(16 + seed, 24, seed=seed)
        self.outcome.compared += seed in self.outcome.answers
        self.outcome.differing += self.outcome.answers.setdefault(seed, got) != got

    async def _abort(self) -> None:
        prompt = self._rng.choice((16, 16, 900))
        await self._ask(prompt, 64, stop_after=self._rng.randint(1, 20))

    async def _slow(self) -> None:
        await self._ask(16, 32, pause_s=0.3)

    async def _burst(self) -> None:
        await asyncio.gather(*(self._ask(700, 4) for _ in range(12)))


async def vanish(made: Lab, load: Load, rng: random.Random, until_s: float) -> None:
    """Client processes that end badly in the middle of an answer."""
    invite = await made.guest()
    number = 0
    while time.monotonic() + VANISH_EVERY_S < until_s:
        await asyncio.sleep(VANISH_EVERY_S * rng.uniform(0.5, 1.5))
        number += 1
        way = ("killed", "frozen", "stopped")[number % 3]
        name = f"gone{number}"
        client = await made.start(
            name, "helix-p2p", "generate", invite, "--json", "--ignore-eos",
            "--max-tokens=800", "--prompt=one two three", f"--model={made.model}",
        )  # fmt: skip
        try:
            await client.wait_for(lambda e: e.get("event") == "piece", 60)
            await _end(made, client, way)
        except AssertionError as error:
            load.outcome.errors[f"vanishing client: {str(error).splitlines()[0]}"] += 1
        load.outcome.vanished[way] += 1
        await asyncio.gather(*client.readers, return_exceptions=True)
        made.commands.pop(name)


async def _end(made: Lab, client: Command, way: str) -> None:
    if way == "frozen":
        made.kill(client.name, signal.SIGSTOP)
        await asyncio.sleep(8.0)
    made.kill(client.name, signal.SIGINT if way == "stopped" else signal.SIGKILL)
    await client.process.wait()


async def sample(made: Lab, into: dict[str, list[Sample]], keep: Path | None) -> None:
    """Look at every process, for ever; with `keep`, every sample is a line of JSON there."""
    began_s = time.monotonic()
    while True:
        now_s = time.monotonic() - began_s
        for name, process in family(made).items():
            try:
                with process.oneshot():
                    seen = Sample(
                        now_s,
                        process.memory_info().rss,
                        process.num_fds(),
                        process.num_threads(),
                    )
            except psutil.NoSuchProcess:
                continue
            into[name].append(seen)
            if keep is not None:
                with keep.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"process": name, **asdict(seen)}) + "\n")
        await asyncio.sleep(SAMPLE_S)


async def until_free(made: Lab, names: list[str]) -> list[str]:
    """What is still reserved or running after a while; empty when every room is free."""
    deadline_s = time.monotonic() + FREE_WITHIN_S
    while True:
        held = []
        for name in names:
            said = await asyncio.to_thread(ask_status, made.folder / name)
            kinds = ("entry_sessions", "stage_sessions", "waiting_sessions", "kv_used")
            held += [f"{name}: {kind} {said[kind]}" for kind in kinds if said[kind]]
        if not held or time.monotonic() > deadline_s:
            return held
        await asyncio.sleep(0.5)


async def soak(minutes: float, per_s: float, report: Report, keep: Path | None) -> None:
    """Run it all and report."""
    rng = random.Random(1)
    samples: dict[str, list[Sample]] = defaultdict(list)
    async with served(tiny_model(), MEMORY_MB) as made:
        names = [n for n in made.commands if n != "bootstrap"]
        async with Swarm.connect(await made.guest()) as swarm:
            load = Load(swarm, rng)
            began_s = time.monotonic()
            before_s = cpu_s(family(made).values())
            until_s = began_s + 60 * minutes
            watch = asyncio.create_task(sample(made, samples, keep))
            try:
                gone = vanish(made, load, random.Random(2), until_s)
                await asyncio.gather(load.run(until_s, per_s), gone)
                held = await until_free(made, names)
                used_s = cpu_s(family(made).values()) - before_s
                wall_s = time.monotonic() - began_s
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
        said = [await asyncio.to_thread(ask_status, made.folder / name) for name in names]
    _report(report, load.outcome, samples, held)
    figures = {"cpu_cores": used_s / wall_s, "failovers": sum(s["failovers"] for s in said)}
    report.add(Line("load", "CPU, all processes", f"{used_s / wall_s:.2f} cores", figures=figures))
    # Leaving the lab fails where a process stays.
    report.add(Line("end", "processes left behind", "none", "none", holds=True))


def _report(
    report: Report, outcome: Outcome, samples: dict[str, list[Sample]], held: list[str]
) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.requests.items()))
    report.add(Line("load", "requests", kinds, figures=dict(outcome.requests)))
    gone = ", ".join(f"{count} {way}" for way, count in sorted(outcome.vanished.items()))
    report.add(Line("load", "clients that vanished", gone, figures=dict(outcome.vanished)))
    report.add(Line("load", "tokens", str(outcome.tokens), figures={"tokens": outcome.tokens}))
    errors = ", ".join(f"{count} × {what}" for what, count in sorted(outcome.errors.items()))
    report.add(Line("load", "errors", errors or "none", "none", holds=not errors))
    same = f"{outcome.compared - outcome.differing} of {outcome.compared} equal"
    report.add(Line("load", "same seed", same, "all equal", holds=not outcome.differing))
    for what, name_of_field in (
        ("memory", "rss_bytes"),
        ("descriptors", "descriptors"),
        ("threads", "threads"),
    ):
        for name, seen in samples.items():
            points = [(s.at_s, getattr(s, name_of_field)) for s in seen]
            report.add(growth(name, what, points))
    report.add(Line("end", "KV rooms", "; ".join(held) or "all free", "all free", holds=not held))


def growth(name: str, what: str, seen: list[tuple[float, int]]) -> Line:
    """How a figure moved after the warm-up: the last fifth's median beside the first fifth's."""
    first_s, last_s = seen[0][0], seen[-1][0]
    judged = [point for point in seen if point[0] >= first_s + WARM_UP * (last_s - first_s)]
    fifth = max(1, len(judged) // 5)
    early = statistics.median(value for _, value in judged[:fifth])
    late = statistics.median(value for _, value in judged[-fifth:])
    slope_per_h = 0.0
    if len(judged) > 1:
        fit = statistics.linear_regression([at for at, _ in judged], [v for _, v in judged])
        slope_per_h = fit.slope * 3600
    spare = SPARE_BYTES if what == "memory" else SPARE_COUNT
    unit, scale = (" MB", 1e6) if what == "memory" else ("", 1.0)
    return Line(
        what,
        name,
        f"{early / scale:.0f} → {late / scale:.0f}{unit} ({(late - early) / early:+.1%}), "
        f"{slope_per_h / scale:+.1f}{unit} an hour",
        f"at most +{MOST_GROWTH:.0%}",
        late - early <= max(MOST_GROWTH * early, spare),
        {"early": early, "late": late, "slope_per_h": slope_per_h},
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="bench soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--requests-per-s", type=float, default=0.5)
    parser.add_argument("--samples", type=Path, metavar="FILE", help="keep every sample")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = Report(f"{options.minutes:g} minutes of mixed load on three peers")
    run(soak(options.minutes, options.requests_per_s, report, options.samples))
    sys.exit(report.finish(options.json))


if __name__ == "__main__":
    main()
