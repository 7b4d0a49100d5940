"""Peers come, go and die; the client's answer is the unbroken one, and no request fails."""

import asyncio
import signal
from pathlib import Path
from typing import Self

import pytest

from helix_p2p import Swarm
from tests.e2e.conftest import MakeSwarm
from tests.e2e.lab import Lab
from tests.e2e.reference import PROMPTS, greedy

TOKENS = 48
KILL_AT = 10


async def kill_mid_answer(lab: Lab, swarm: Swarm, prompt: str, stage: int) -> tuple[str, tuple]:
    """Stream an answer, kill the peer of one stage after some tokens, read to the end."""
    stream = swarm.chat_stream([{"role": "user", "content": prompt}], max_tokens=TOKENS)
    victim, seen = None, 0
    async with stream:
        async for piece in stream:
            seen += len(piece.tokens)
            if victim is None and seen >= KILL_AT:
                pipeline = stream.session.pipeline
                assert len(pipeline) > 1
                victim = lab.name_of(pipeline[stage % len(pipeline)][0])
                lab.kill(victim)
    assert victim is not None
    return victim, stream.completion.tokens


async def assert_survives(swarm_of: MakeSwarm, model: Path, stage: int, times: int) -> None:
    async with swarm_of(330, 380, 450, 420) as lab, Swarm.connect(await lab.guest()) as swarm:
        # answers that end by themselves before the kill would show nothing
        prompts = [p for p in PROMPTS if len(greedy(model, p, TOKENS)[1]) == TOKENS][:times]
        assert len(prompts) == times
        for number, prompt in enumerate(prompts):
            _, expected = greedy(model, prompt, TOKENS)
            victim, tokens = await kill_mid_answer(lab, swarm, prompt, stage)
            assert tokens == expected, f"kill {number}: {victim}"
            if number + 1 < times:  # the same peer comes back for the next round
                again = await lab.restart(victim)
                await again.wait_for(lambda e: e.get("state") == "serving", 120)


@pytest.mark.parametrize("stage", [0, 1, -1], ids=["entry", "middle", "last"])
async def test_killed_peer_changes_no_token(swarm_of: MakeSwarm, smollm2: Path, stage: int):
    await assert_survives(swarm_of, smollm2, stage, times=1)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, -1], ids=["entry", "middle", "last"])
async def test_ten_killed_peers_change_no_token(swarm_of: MakeSwarm, smollm2: Path, stage: int):
    await assert_survives(swarm_of, smollm2, stage, times=10)


class Load:
    """Clients that ask one prompt after another until told to stop; every answer is checked."""

    def __init__(self, swarm: Swarm, model: Path, clients: int) -> None:
        self._swarm = swarm
        self._model = model
        self._stop = asyncio.Event()
        self._clients = clients
        self.answers = 0
        self.pipelines: list = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for prompt in PROMPTS[: self._clients]:
            greedy(self._model, prompt, TOKENS)
        self._tasks = [
            asyncio.create_task(self._ask(PROMPTS[number])) for number in range(self._clients)
        ]
        return self

    async def _ask(self, prompt: str) -> None:
        _, expected = greedy(self._model, prompt, TOKENS)
        while not self._stop.is_set():
            completion = await self._swarm.chat(
                [{"role": "user", "content": prompt}], max_tokens=TOKENS
            )
            assert completion.tokens == expected
            self.answers += 1
            self.pipelines.append(completion.pipeline)

    async def until(self, done, timeout_s: float = 90.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not done():
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.1)

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


def peers_of(pipelines) -> set[str]:
    return {peer for pipeline in pipelines for peer, _ in pipeline}


async def test_join_leave_and_lost_planner_fail_no_request(swarm_of: MakeSwarm, smollm2: Path):
    async with (
        swarm_of(380, 450, 420) as lab,
        Swarm.connect(await lab.guest()) as swarm,
        Load(swarm, smollm2, 3) as load,
    ):
        # a peer joins during load: it gets layers, and traffic
        newcomer = await lab.peer("new", 460)
        await newcomer.wait_for(lambda e: e.get("state") == "serving", 120)
        worth = await newcomer.wait_for(lambda e: e["event"] == "worth", 60)
        assert worth["tokens_per_s"] > 0
        new = lab.peer_id("new")
        await load.until(lambda: new in peers_of(load.pipelines[-6:]))

        # a peer leaves during load: its sessions finish, traffic goes elsewhere
        assert await lab.stop("p0", timeout_s=90) == 0
        before = load.answers
        await load.until(lambda: load.answers >= before + 4)
        left = lab.peer_id("p0")
        assert left not in peers_of(load.pipelines[-2:])

        # the planner is killed: serving goes on, another peer plans
        planner = lab.planner()
        others = [n for n in ("p1", "p2", "new") if n != planner]
        seen = {n: len(lab.commands[n].events) for n in others}
        lab.kill(planner)
        await asyncio.wait(
            [
                asyncio.create_task(
                    lab.commands[n].wait_for(
                        lambda e: e["event"] == "planner" and e["planning"], 60, seen[n]
                    )
                )
                for n in others
            ],
            return_when=asyncio.FIRST_COMPLETED,
        )
        before = load.answers
        await load.until(lambda: load.answers >= before + 4)


async def test_frozen_peer_is_found_and_replaced(swarm_of: MakeSwarm, smollm2: Path):
    async with swarm_of(330, 380, 450, 420) as lab, Swarm.connect(await lab.guest()) as swarm:
        prompt = PROMPTS[1]
        _, expected = greedy(smollm2, prompt, TOKENS)
        stream = swarm.chat_stream([{"role": "user", "content": prompt}], max_tokens=TOKENS)
        frozen = None
        async with stream:
            async for _piece in stream:
                if frozen is None and len(stream.session.pipeline) > 1:
                    frozen = lab.name_of(stream.session.pipeline[-1][0])
                    lab.kill(frozen, signal.SIGSTOP)
        assert stream.completion.tokens == expected
