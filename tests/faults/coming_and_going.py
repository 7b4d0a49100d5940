"""Peers that leave, planners that die, swarms that churn: requests must not notice.

Real processes and a tiny model, so that the machine is busy with the swarm and not with layers.
"""

import asyncio
import random
import time

import psutil

from helix_p2p import Swarm
from tests.e2e.lab import Event, Lab
from tests.faults.arena import TINY_TWICE, quantile, swarm_of, tiny_model
from tests.faults.load import Load
from tests.faults.table import Measured, Setting

TOKENS = 60
CLIENTS = 4
CHURN_EVERY_S = 20.0
CHURN_S = 600.0


async def leave(setting: Setting) -> Measured:
    """Ctrl-C on one peer after another under load."""
    rounds = setting.count(6, 2)
    took: list[float] = []
    async with (
        swarm_of(setting, tiny_model(), tuple(TINY_TWICE), TINY_TWICE) as lab,
        Swarm.connect(await lab.guest()) as swarm,
        Load(swarm, CLIENTS, TOKENS) as load,
    ):
        names = [f"p{number}" for number in range(len(TINY_TWICE))]
        for number in range(rounds):
            name = names[number % len(names)]
            await load.some_more(CLIENTS)
            began_s = time.monotonic()
            status = await lab.stop(name, timeout_s=90)
            took.append(time.monotonic() - began_s)
            assert status == 0, f"{name} ended with {status}"
            setting.say(f"{name} left in {took[-1]:.1f} s; {load.words()}")
            again = await lab.restart(name)
            await again.wait_for(lambda e: e.get("state") == "serving", 120)
        await load.some_more(CLIENTS)
    said = f"{rounds} peers left in {max(took):.1f} s at most; {load.words()}"
    kept = not load.failed and load.wrong == 0 and max(took) <= 60.0
    return Measured(said, kept, {"leave_most_s": max(took), "requests": len(load.done)})


async def planner(setting: Setting) -> Measured:
    """Kill -9 of the planner under load, again and again; a new planner and its plan."""
    rounds = setting.count(6, 2)
    took: list[float] = []
    async with (
        swarm_of(setting, tiny_model(), (100,) * 6) as lab,
        Swarm.connect(await lab.guest()) as swarm,
        Load(swarm, CLIENTS, TOKENS) as load,
    ):
        for _ in range(rounds):
            await load.some_more(CLIENTS)
            victim = lab.planner()
            others = [n for n in lab.commands if n.startswith("p") and n != victim]
            marks = {name: len(lab.commands[name].events) for name in others}
            began_s = time.monotonic()
            lab.kill(victim)
            await _first(lab, others, marks, lambda e: e["event"] == "planner" and e["planning"])
            await _first(lab, others, marks, lambda e: e["event"] == "plan")
            took.append(time.monotonic() - began_s)
            setting.say(f"{victim} killed, a new plan after {took[-1]:.1f} s; {load.words()}")
            again = await lab.restart(victim)
            await again.wait_for(lambda e: e.get("state") == "serving", 120)
        await load.some_more(CLIENTS)
    p95_s = quantile(took, 0.95)
    said = (
        f"{rounds} planners killed; a new planner's plan after p50 {quantile(took, 0.5):.1f} s, "
        f"p95 {p95_s:.1f} s; {load.words()}"
    )
    kept = not load.failed and load.wrong == 0 and p95_s <= 30.0
    return Measured(said, kept, {"plan_p95_s": p95_s, "requests": len(load.done)})


async def bootstrap_down(setting: Setting) -> Measured:
    """Kill every bootstrap node; serving goes on, and a peer that restarts finds its way back."""
    rounds = setting.count(3, 1)
    took: list[float] = []
    async with (
        swarm_of(setting, tiny_model(), tuple(TINY_TWICE), TINY_TWICE) as lab,
        Swarm.connect(await lab.guest()) as swarm,
        Load(swarm, CLIENTS, TOKENS) as load,
    ):
        await asyncio.sleep(20)  # peers remember each other every 15 s
        lab.kill("bootstrap")
        for number in range(rounds):
            name = f"p{number}"
            await load.some_more(CLIENTS)
            await lab.stop(name, timeout_s=90)
            began_s = time.monotonic()
            again = await lab.peer(name, tuple(TINY_TWICE)[number])
            await again.wait_for(lambda e: e["event"] == "joined", 120)
            joined_s = time.monotonic() - began_s
            await again.wait_for(lambda e: e.get("state") == "serving", 120)
            took.append(time.monotonic() - began_s)
            setting.say(f"{name} joined after {joined_s:.1f} s, serves after {took[-1]:.1f} s")
        await load.some_more(CLIENTS)
    said = (
        f"all bootstrap nodes killed; {rounds} peers started again from cached addresses serve "
        f"{max(took):.1f} s after their start at most (imports and measuring included); "
        f"{load.words()}"
    )
    kept = not load.failed and load.wrong == 0 and max(took) <= 30.0
    return Measured(said, kept, {"restart_most_s": max(took), "requests": len(load.done)})


async def churn(setting: Setting) -> Measured:
    """A kill or a join every 20 s for ten minutes, four clients, nothing left behind."""
    rng = random.Random(setting.seed)
    lasts_s = 80.0 if setting.quick else CHURN_S
    before = _descriptors()
    kills = joins = 0
    async with (
        swarm_of(setting, tiny_model(), (100,) * 6) as lab,
        Swarm.connect(await lab.guest()) as swarm,
        Load(swarm, CLIENTS, TOKENS) as load,
    ):
        away: list[str] = []
        ends_s = time.monotonic() + lasts_s
        while time.monotonic() < ends_s:
            here = [n for n in lab.commands if n.startswith("p") and n not in away]
            if away and (len(here) <= 4 or rng.random() < 0.5):
                name = away.pop(rng.randrange(len(away)))
                await lab.restart(name)
                joins += 1
                what = f"{name} joins"
            else:
                name = rng.choice(here)
                lab.kill(name)
                away.append(name)
                kills += 1
                what = f"{name} killed"
            setting.say(f"{what}; {load.words()}")
            await asyncio.sleep(CHURN_EVERY_S)
        await load.some_more(CLIENTS, 180)
        folder = lab.folder
    left = [
        str(path.relative_to(folder))
        for pattern in ("*.sock", ".*.new")
        for path in folder.rglob(pattern)
        if path.relative_to(folder).parts[0] not in away  # who is killed cannot tidy up
    ]
    grown = _descriptors() - before
    share = 1 - sum(load.failed.values()) / len(load.done)
    said = (
        f"{lasts_s / 60:.0f} min, {kills} kills and {joins} joins among 6 peers, {CLIENTS} "
        f"clients: {load.words()}, {share:.2%}; left behind: no process, {grown} descriptors of "
        f"the harness, files: {', '.join(left) or 'none'}"
    )
    kept = share >= 0.99 and load.wrong == 0 and not left and grown <= 0
    return Measured(
        said,
        kept,
        {"requests": len(load.done), "share": share, "kills": kills, "joins": joins},
    )


def _descriptors() -> int:
    return int(psutil.Process().num_fds())


async def _first(lab: Lab, names: list[str], marks: dict[str, int], what) -> Event:  # type: ignore[no-untyped-def]
    """The first such event of any of these peers."""
    tasks = [
        asyncio.create_task(lab.commands[name].wait_for(what, 60, marks[name])) for name in names
    ]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    return next(iter(done)).result()
