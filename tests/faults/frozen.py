"""Peers and clients that stop without a word: SIGSTOP ends no stream, and even new ones open."""

import asyncio
import itertools
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from helix_p2p import Swarm
from helix_p2p.cli.control import ask_status
from helix_p2p.types import PeerId
from tests.e2e.lab import Lab
from tests.faults.arena import TINY_TWICE, swarm_of, tiny_model
from tests.faults.battle import Battle
from tests.faults.table import Measured, Setting

TOKENS = 600
FOUND_S = 3.0


async def freeze_peer(setting: Setting) -> Measured:
    """Stop a peer of a pipeline, at every position in turn, and let it go on later."""
    wanted = setting.count(18, 3)
    async with (
        swarm_of(setting, tiny_model(), tuple(TINY_TWICE), TINY_TWICE) as lab,
        Swarm.connect(await lab.guest()) as swarm,
    ):
        battle = Battle(setting, lab, swarm, TOKENS)
        await battle.learn()
        tally = battle.tally
        for position in itertools.cycle(("entry", "middle", "last")):
            if tally.broken >= wanted:
                break
            running = await battle.begin()
            victim = battle.choose([answer for _, answer, _ in running], position)
            lab.kill(victim, signal.SIGSTOP)
            at_s = time.monotonic()
            await battle.end(running, {victim}, at_s)
            setting.say(f"{victim} frozen: {tally.words()}; {tally.delays()}")
            lab.kill(victim, signal.SIGCONT)
            await back(lab, swarm, victim)
    kept = (
        tally.same == tally.broken
        and tally.delay_s(0.5) <= FOUND_S + 1
        and (tally.delay_s(0.95) < 5.0)
    )
    return Measured(f"{tally.words()}; {tally.delays()}", kept, tally.figures())


async def back(lab: Lab, swarm: Swarm, name: str, timeout_s: float = 60.0) -> None:
    """Wait until a peer that was away serves again, as clients see it."""
    peer = PeerId(lab.peer_id(name))
    async with asyncio.timeout(timeout_s):
        while True:
            await swarm.refresh()
            said = swarm.view.members.get(peer)
            if said is not None and said.routable is not None:
                return
            await asyncio.sleep(0.5)


async def vanish(setting: Setting) -> Measured:
    """Clients that are frozen in the middle of an answer: when is what they hold free?"""
    clients = setting.count(4, 2)
    async with swarm_of(setting, tiny_model(), tuple(TINY_TWICE), TINY_TWICE) as lab:
        guest = await lab.guest()
        script = str(Path(__file__).with_name("asking_client.py"))
        names = [f"client{number}" for number in range(clients)]
        for name in names:
            client = await lab.start(name, "python", script, guest, "1900")
            await client.wait_for(lambda e: e.get("event") == "token", 60)
        peers = [name for name in lab.commands if name.startswith("p")]
        await until_sessions(lab, peers, lambda count: count > 0, 20.0)
        for name in names:
            lab.kill(name, signal.SIGSTOP)
        at_s = time.monotonic()
        await until_sessions(lab, peers, lambda count: count == 0, 60.0)
        free_s = time.monotonic() - at_s
        setting.say(f"{clients} clients frozen: no session left after {free_s:.1f} s")
        for name in names:  # a client that comes back goes on, and nothing is lost
            mark = len(lab.commands[name].events)
            lab.kill(name, signal.SIGCONT)
            await lab.commands[name].wait_for(lambda e: e.get("event") == "token", 60, mark)
    return Measured(
        f"{clients} clients frozen mid-answer: all sessions and their KV room free after "
        f"{free_s:.1f} s; each went on with its answer when it came back",
        free_s <= 30.0,
        {"free_s": free_s, "clients": clients},
    )


async def until_sessions(
    lab: Lab, peers: Sequence[str], holds: Callable[[int], bool], timeout_s: float
) -> None:
    """Ask the peers, until their sessions (on stages and in lines) are as many as wanted."""
    async with asyncio.timeout(timeout_s):
        while True:
            said = [await asyncio.to_thread(ask_status, lab.folder / name) for name in peers]
            if holds(sum(int(s["stage_sessions"]) + int(s["waiting_sessions"]) for s in said)):
                return
            await asyncio.sleep(0.2)
