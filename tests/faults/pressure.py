"""Peers that are merely slow, and more requests than the swarm can take."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator

import psutil

from helix_p2p import Swarm
from helix_p2p.errors import Busy
from tests.e2e.lab import Lab
from tests.faults.arena import TINY_TWICE, USERS_PROMPTS, ask, quantile, swarm_of, tiny_model
from tests.faults.load import Done, Load
from tests.faults.table import Measured, Setting

TOKENS = 60
CLIENTS = 4
MANY_CLIENTS = 100
"""An entry peer lets 128 requests of one client identity wait and run."""
LONG_ANSWER = 1900
"""Tokens that are asked for and reserved."""
LITTLE_ROOM = {40: "0-2", 4: "2-4", 5: "2-4", 42: "4-6", 43: "4-6"}
"""MB of five peers and their layers: one entry peer, and in the middle room for seven answers."""
SLOW_BY = 10
PERIOD_S = 0.2
TWINS = (("p0", "p1"), ("p2", "p3"), ("p4", "p5"))
"""Holders of the same layers, by their place in `TINY_TWICE`."""


@contextlib.asynccontextmanager
async def slowed(lab: Lab, name: str) -> AsyncIterator[None]:
    """Let a process run a tenth of the time: alive, with heartbeats, ten times as slow."""

    async def throttle() -> None:
        process = lab.commands[name].process
        while True:
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(PERIOD_S * (1 - 1 / SLOW_BY))
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(PERIOD_S / SLOW_BY)

    task = asyncio.create_task(throttle())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with contextlib.suppress(ProcessLookupError):
            lab.commands[name].process.send_signal(signal.SIGCONT)


async def grey(setting: Setting) -> Measured:
    """Slow the busier holder of each stage in turn, and watch where requests go."""
    watch_s = 40.0 if setting.quick else 90.0
    shares: list[float] = []
    ratios: list[float] = []
    async with (
        swarm_of(setting, tiny_model(), tuple(TINY_TWICE), TINY_TWICE) as lab,
        Swarm.connect(await lab.guest()) as swarm,
        Load(swarm, CLIENTS, TOKENS) as load,
    ):
        for twins in TWINS[1:2] if setting.quick else TWINS:
            mark = len(load.done)
            await load.some_more(40, 200)
            before = load.done[mark:]
            victim = max(twins, key=lambda twin: _share(before, lab.peer_id(twin)))
            peer = lab.peer_id(victim)
            async with slowed(lab, victim):
                began_s = time.monotonic()
                await asyncio.sleep(watch_s)
            later = [it for it in load.done[mark:] if it.began_s > began_s + min(60.0, watch_s / 2)]
            usual, now = _share(before, peer), _share(later, peer)
            shares.append(1 - now / usual if usual else 0.0)
            ratios.append(_p95_s(later) / _p95_s(before))
            setting.say(
                f"{victim} slow: share {usual:.0%} → {now:.0%}, p95 {_p95_s(before):.2f} → "
                f"{_p95_s(later):.2f} s ({len(before)}, {len(later)} answers)"
            )
    said = (
        f"share of the slow peer down by {min(shares):.0%} at least after 60 s; p95 of an answer "
        f"{max(ratios):.1f}× the usual; {load.words()}"
    )
    kept = min(shares) >= 0.8 and max(ratios) <= 2.0 and load.wrong == 0
    return Measured(said, kept, {"share_down": min(shares), "p95_ratio": max(ratios)})


def _share(done: list[Done], peer: str) -> float:
    return sum(peer in it.peers for it in done) / max(1, len(done))


def _p95_s(done: list[Done]) -> float:
    return quantile([it.ended_s - it.began_s for it in done], 0.95) if done else float("inf")


async def overload(setting: Setting) -> Measured:
    """Nearly as many clients as the swarm lets wait, then four times as many.

    Each asks for an answer that takes a seventh of the narrow stages' KV room, and hangs up when it
    has read enough, as chat programs do.
    """
    lasts_s = 15.0 if setting.quick else 60.0
    async with (
        swarm_of(setting, tiny_model(), tuple(LITTLE_ROOM), LITTLE_ROOM) as lab,
        Swarm.connect(await lab.guest()) as swarm,
    ):
        await _press(swarm, CLIENTS, 5.0)
        fit, base_s, early = await _press(swarm, MANY_CLIENTS, lasts_s)
        rss = _rss(lab)
        admitted, full_s, refused = await _press(swarm, 4 * MANY_CLIENTS, lasts_s)
        grown = _rss(lab) / rss - 1
    ratio = full_s / base_s
    told = sum(error.retry_after_s is not None for error in refused)
    said = (
        f"{4 * MANY_CLIENTS} clients instead of {MANY_CLIENTS}: {admitted} answers ({fit} before), "
        f"{len(refused)} typed refusals ({len(early)} before), {told} with Retry-After; p95 time "
        f"to first token {ratio:.1f}× ({base_s:.1f} → {full_s:.1f} s); memory {grown:+.0%}"
    )
    kept = ratio <= 2.0 and grown <= 0.1 and 0 < len(refused) == told
    return Measured(said, kept, {"ttft_ratio": ratio, "grown": grown, "refused": len(refused)})


async def _press(swarm: Swarm, clients: int, lasts_s: float) -> tuple[int, float, list[Busy]]:
    """Ask without a pause: answers, p95 of their time to first token, refusals."""
    ends_s = time.monotonic() + lasts_s
    firsts: list[float] = []
    refused: list[Busy] = []

    async def one(number: int) -> None:
        while time.monotonic() < ends_s:
            prompt = USERS_PROMPTS[number % len(USERS_PROMPTS)]
            try:
                firsts.append(await _first_token_s(swarm, prompt))
            except Busy as error:
                refused.append(error)
                await asyncio.sleep(error.retry_after_s or 0.5)

    await asyncio.gather(*(one(number) for number in range(clients)))
    return len(firsts), quantile(firsts, 0.95), refused


async def _first_token_s(swarm: Swarm, prompt: str) -> float:
    """Until the first of `TOKENS` tokens of an answer that might be much longer."""
    began_s = time.monotonic()
    answer, stream = ask(swarm, prompt, LONG_ANSWER)
    async with stream:
        async for piece in stream:
            answer.moments_s.append(time.monotonic())
            answer.tokens += piece.tokens
            if len(answer.tokens) >= TOKENS:
                break
    return answer.moments_s[0] - began_s


def _rss(lab: Lab) -> float:
    """Memory of all peers."""
    return float(
        sum(
            psutil.Process(command.process.pid).memory_info().rss
            for name, command in lab.commands.items()
            if name.startswith("p")
        )
    )
