"""A peer whose wall clock is minutes off."""

import asyncio
from pathlib import Path

from helix_p2p import Swarm
from tests.faults.arena import swarm_of, tiny_model
from tests.faults.load import Load
from tests.faults.table import Measured, Setting

OFFSETS_S = (300.0, -300.0)


async def wrong(setting: Setting) -> Measured:
    """Two peers join, five minutes ahead and behind, while four others serve."""
    script = str(Path(__file__).with_name("wrong_clock_peer.py"))
    async with (
        swarm_of(setting, tiny_model(), (100,) * 4) as lab,
        Swarm.connect(await lab.guest()) as swarm,
        Load(swarm, 3, 40) as load,
    ):
        lab.peer_command = ("python", script)
        found: list[str] = []
        for number, offset_s in enumerate(OFFSETS_S):
            lab.environment["FAULTS_CLOCK_OFFSET_S"] = str(offset_s)
            name = f"wrong{number}"
            peer = await lab.peer(name, 100)
            event = await peer.wait_for(lambda e: "clock" in e["event"], 90)
            found.append(f"{offset_s:+.0f} s: “{event['text']}”")
            setting.say(found[-1])
        await asyncio.sleep(10)
        await load.some_more(6)
        planned = [
            name
            for name in ("wrong0", "wrong1")
            if any(e["event"] == "planner" and e["planning"] for e in lab.commands[name].events)
        ]
    said = f"{'; '.join(found)}; planned: {planned or 'neither'}; {load.words()}"
    return Measured(said, not planned and not load.failed and load.wrong == 0)
