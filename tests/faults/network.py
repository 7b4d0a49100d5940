"""Faults of the network itself: delay and loss, a cut between two sides, a peer behind a dead line.

Real peers in network namespaces of their own; see `wires.py`. Skipped without root.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator

from helix_p2p import Swarm
from helix_p2p.cli.control import ask_status
from tests.e2e.lab import Lab, lab
from tests.faults.arena import TINY_TWICE, quantile, tiny_model
from tests.faults.battle import Battle
from tests.faults.load import Load
from tests.faults.table import Measured, Setting
from tests.faults.wires import HOME, Wires, wires

PEERS = tuple(f"p{number}" for number in range(len(TINY_TWICE)))
ONE_WAY_S = 0.025
LOSS = 0.015
TOKENS = 40


@contextlib.asynccontextmanager
async def wired_swarm(setting: Setting) -> AsyncIterator[tuple[Lab, Wires]]:
    """A bootstrap node and six peers, each in a namespace; clients are at `HOME`."""
    async with (
        wires(("bootstrap", *PEERS), setting.seed) as net,
        lab(setting.folder, tiny_model()) as made,
    ):
        made.prefix, made.host = net.prefix, net.host
        made.give_ranges(TINY_TWICE)
        await made.bootstrap()
        for name, memory in zip(PEERS, TINY_TWICE, strict=True):
            await made.peer(name, memory)
        await made.serving(*PEERS)
        yield made, net


async def far_apart(setting: Setting) -> Measured:
    """25 ms one way and 1.5 % loss on every line."""
    answers = setting.count(40, 8)
    async with wired_swarm(setting) as (made, net):
        net.switch.delay_s, net.switch.loss = ONE_WAY_S, LOSS
        net.switch.passed = net.switch.lost = 0  # what it took to join does not count
        async with (
            Swarm.connect(await made.guest()) as swarm,
            Load(swarm, 2, TOKENS) as load,
        ):
            await load.some_more(answers, 500)
        lost = net.switch.lost / max(1, net.switch.lost + net.switch.passed)
    took = [it.ended_s - it.began_s for it in load.done if it.error is None]
    firsts = [it.first_s for it in load.done if it.first_s is not None]
    per_token_s = quantile(took, 0.5) / TOKENS
    said = (
        f"{net.switch.lost} of {net.switch.lost + net.switch.passed} frames lost ({lost:.1%}); "
        f"{load.words()}; first token p50 {quantile(firsts, 0.5):.2f} s, "
        f"{per_token_s * 1e3:.0f} ms a token over three stages"
    )
    return Measured(
        said,
        not load.failed and load.wrong == 0,
        {"requests": len(load.done), "loss": lost, "per_token_s": per_token_s},
    )


async def dead_line(setting: Setting) -> Measured:
    """Everything to and from one peer is dropped in silence: half-open connections."""
    wanted = setting.count(12, 3)
    async with (
        wired_swarm(setting) as (made, net),
        Swarm.connect(await made.guest()) as swarm,
    ):
        battle = Battle(setting, made, swarm, 400)
        await battle.learn()
        tally = battle.tally
        for position in itertools.cycle(("entry", "middle", "last")):
            if tally.broken >= wanted:
                break
            running = await battle.begin()
            victim = battle.choose([answer for _, answer, _ in running], position)
            net.switch.silent = frozenset({victim})
            at_s = time.monotonic()
            await battle.end(running, {victim}, at_s)
            net.switch.silent = frozenset()
            setting.say(f"{victim} cut off: {tally.words()}; {tally.delays()}")
            await swarm.refresh()
            await asyncio.sleep(10)
    kept = tally.same == tally.broken and tally.delay_s(0.95) < 5.0
    return Measured(f"{tally.words()}; {tally.delays()}", kept, tally.figures())


async def partition(setting: Setting) -> Measured:
    """Two sides that each hold every layer; they are cut apart for a while, then joined again."""
    rounds = setting.count(3, 1)
    merges: list[float] = []
    served = True
    async with wired_swarm(setting) as (made, net):
        ours = frozenset({HOME, "bootstrap", *PEERS[0::2]})
        theirs = frozenset(PEERS[1::2])
        async with (
            Swarm.connect(await made.guest()) as swarm,
            Load(swarm, 2, TOKENS) as load,
        ):
            for number in range(rounds):
                await load.some_more(4)
                net.switch.sides = (ours, theirs)
                await asyncio.sleep(45 if number % 2 == 0 else 20)
                await load.some_more(4)
                plans = await _plans(made, ours), await _plans(made, theirs)
                serve = [await _states(made, side) for side in (ours, theirs)]
                served &= all(state == "serving" for side in serve for state in side)
                net.switch.sides = ()
                began_s = time.monotonic()
                async with asyncio.timeout(90):
                    while not await _is_one(made):  # noqa: ASYNC110 - other processes
                        await asyncio.sleep(0.25)
                merges.append(time.monotonic() - began_s)
                setting.say(
                    f"cut: {len(plans[0])} and {len(plans[1])} plans, states {serve}; "
                    f"one plan {merges[-1]:.1f} s after the merge; {load.words()}"
                )
    said = (
        f"{rounds} partitions of 3 and 3 peers: both sides served: {'yes' if served else 'no'}; "
        f"one plan and one membership {max(merges):.1f} s after the merge at most; {load.words()}"
    )
    kept = served and not load.failed and load.wrong == 0 and max(merges) <= 15.0
    return Measured(said, kept, {"merge_most_s": max(merges), "requests": len(load.done)})


async def _said(made: Lab, names: frozenset[str] | tuple[str, ...]) -> list[dict[str, object]]:
    return [
        await asyncio.to_thread(ask_status, made.folder / name) for name in PEERS if name in names
    ]


async def _plans(made: Lab, side: frozenset[str]) -> set[object]:
    """The plans that these peers follow."""
    return {_hash(said) for said in await _said(made, side)}


async def _states(made: Lab, side: frozenset[str]) -> list[object]:
    return [said["state"] for said in await _said(made, side)]


async def _is_one(made: Lab) -> bool:
    """Whether all peers follow one plan and know each other."""
    said = await _said(made, PEERS)
    everyone = {made.peer_id(name) for name in PEERS}
    return len({_hash(it) for it in said}) == 1 and all(_members(it) >= everyone for it in said)


def _hash(said: dict[str, object]) -> object:
    plan = said["plan"]
    return plan["hash"] if isinstance(plan, dict) else None


def _members(said: dict[str, object]) -> set[str]:
    members = said["members"]
    assert isinstance(members, list)
    return {str(it["peer"]) for it in members}
