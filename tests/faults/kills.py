"""kill -9 of peers in the middle of answers: one, two at once, and one during the replay.

The swarm stays up and only the killed peer is started again, from its own state folder. Several
answers run at once; each whose pipeline held the killed peer is one trial.
"""

import asyncio
import itertools
import time
from collections.abc import Mapping

from helix_p2p import Swarm
from helix_p2p.engine.smollm2 import fetch_smollm2
from tests.faults.arena import HELD_TWICE, SMOLLM2_MB, swarm_of
from tests.faults.battle import Battle
from tests.faults.table import Measured, Setting

HANG_S = 30.0


async def kill_one(setting: Setting) -> Measured:
    """Kill one peer of a pipeline, at every position in turn; every range is held twice."""
    return await _kill(setting, setting.count(100, 6), HELD_TWICE)


async def kill_only_holder(setting: Setting) -> Measured:
    """The same where nobody else holds the range: plan, load, go on."""
    return await _kill(setting, setting.count(12, 3), None)


async def _kill(setting: Setting, wanted: int, ranges: Mapping[int, str] | None) -> Measured:
    async with (
        swarm_of(setting, fetch_smollm2(), tuple(ranges or SMOLLM2_MB), ranges) as lab,
        Swarm.connect(await lab.guest()) as swarm,
    ):
        battle = Battle(setting, lab, swarm)
        await battle.learn()
        tally, kills = battle.tally, 0
        for position in itertools.cycle(("entry", "middle", "last")):
            if tally.broken >= wanted:
                break
            running = await battle.begin()
            victim = battle.choose([answer for _, answer, _ in running], position)
            lab.kill(victim)
            kills += 1
            at_s = time.monotonic()
            await battle.end(running, {victim}, at_s)
            setting.say(f"kill {kills} ({victim}): {tally.words()}; {tally.delays()}")
            await battle.heal(victim)
    fast = ranges is None or (tally.delay_s(0.5) < 2.0 and tally.delay_s(0.95) < 5.0)
    return Measured(
        f"{tally.words()}, {kills} kills; {tally.delays()}",
        tally.same == tally.broken and fast,
        {"kills": kills, **tally.figures()},
    )


async def kill_two(setting: Setting) -> Measured:
    """Two peers at once, or one more while the answer is fed again."""
    rounds = setting.count(10, 2)
    async with (
        swarm_of(setting, fetch_smollm2(), tuple(HELD_TWICE), HELD_TWICE) as lab,
        Swarm.connect(await lab.guest()) as swarm,
    ):
        battle = Battle(setting, lab, swarm)
        await battle.learn()
        tally = battle.tally
        for number in range(rounds):
            running = await battle.begin()
            first = battle.choose([answer for _, answer, _ in running], "last")
            others = {name for name in lab.commands if name.startswith("p")} - {first}
            second = battle.random.choice(sorted(others))
            lab.kill(first)
            at_s = time.monotonic()
            if number % 2:
                await asyncio.sleep(battle.random.uniform(0.05, 0.6))  # into the replay
            lab.kill(second)
            healing = asyncio.create_task(battle.heal(first, second))
            await battle.end(running, {first, second}, at_s)
            await healing
            setting.say(
                f"round {number + 1}: {tally.words()}; longest silence {tally.longest_s:.1f} s"
            )
    return Measured(
        f"{tally.words()}, {rounds} double kills; longest silence {tally.longest_s:.1f} s",
        tally.wrong == 0 and tally.longest_s <= HANG_S,
        tally.figures(),
    )
