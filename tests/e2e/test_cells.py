"""A swarm that is split into cells while it serves: peers move, and each cell answers alone."""

from pathlib import Path

from helix_p2p import Swarm
from helix_p2p.membership.cells import cell_of
from helix_p2p.node.state import IDENTITY_FILE, load_or_create_key
from tests.e2e.lab import Lab, lab
from tests.e2e.reference import PROMPTS, greedy

TOKENS = 48
KILL_AT = 10
WHOLE_MB = 900
NAMES = ("stays", "moves")


def be_of(folder: Path, swarm: str, cell: int) -> None:
    """Give a peer a key that belongs into this one of two cells."""
    folder.mkdir()
    key = folder / IDENTITY_FILE
    while cell_of(load_or_create_key(key).peer_id, swarm, 2) != cell:
        key.unlink()


async def answer(swarm: Swarm, prompt: str) -> tuple[int, ...]:
    completion = await swarm.chat([{"role": "user", "content": prompt}], max_tokens=TOKENS)
    return completion.tokens


async def killed_midway(made: Lab, swarm: Swarm, prompt: str) -> tuple[str, tuple[int, ...]]:
    """Kill the peer that answers; who it was, and the whole answer."""
    victim, seen = "", 0
    stream = swarm.chat_stream([{"role": "user", "content": prompt}], max_tokens=TOKENS)
    async with stream:
        async for piece in stream:
            seen += len(piece.tokens)
            if not victim and seen >= KILL_AT:
                victim = made.name_of(stream.session.pipeline[0][0])
                made.kill(victim)
    return victim, stream.completion.tokens


async def test_swarm_is_split_while_it_serves_and_each_cell_covers_for_the_other(
    tmp_path: Path, smollm2: Path
) -> None:
    prompts = [p for p in PROMPTS if len(greedy(smollm2, p, TOKENS)[1]) == TOKENS]
    truth = {prompt: greedy(smollm2, prompt, TOKENS)[1] for prompt in prompts[:3]}
    first, second, third = truth
    async with lab(tmp_path, smollm2) as made:
        made.peer_command = ("python", str(Path(__file__).with_name("nimble_peer.py")))
        whole = await made.bootstrap()
        said = await whole.wait_for(lambda e: e.get("invite"))
        for cell, name in enumerate(NAMES):
            be_of(tmp_path / name, said["swarm"], cell)
            await made.peer(name, WHOLE_MB)
        await made.serving(*NAMES)
        async with Swarm.connect(await made.guest()) as swarm:
            assert await answer(swarm, first) == truth[first]

            split = await made.start(
                "split",
                "helix-bootstrap",
                "cells",
                "2",
                "--force",
                f"--state-dir={tmp_path / 'bootstrap'}",
            )
            assert await split.process.wait() == 0
            moves = made.commands["moves"]
            await moves.wait_for(lambda e: e["event"] == "moving")
            moved = len(moves.events)
            assert await answer(swarm, second) == truth[second]  # meanwhile
            await moves.wait_for(lambda e: e["event"] == "joined" and e["cell"] == 1, after=moved)
            await moves.wait_for(lambda e: e.get("state") == "serving", after=moved)
        assert not any(e["event"] == "moving" for e in made.commands["stays"].events)
        assert not [line for line in moves.errors if "Task was destroyed" in line]

        async with Swarm.connect(await made.guest()) as swarm:
            victim, tokens = await killed_midway(made, swarm, third)
            assert victim == NAMES[swarm.view.cell - 1]  # it went on in the other one
            assert tokens == truth[third]
