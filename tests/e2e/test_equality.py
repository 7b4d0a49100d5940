"""The swarm gives what one process gives, token for token."""

import asyncio
from pathlib import Path

import pytest

from helix_p2p import Swarm
from tests.e2e.conftest import MakeSwarm
from tests.e2e.lab import lab
from tests.e2e.reference import PROMPTS, greedy


async def answer(swarm: Swarm, prompt: str, tokens: int, **options: object):
    return await swarm.chat([{"role": "user", "content": prompt}], max_tokens=tokens, **options)


async def assert_equal(swarm: Swarm, model: Path, prompts: tuple[str, ...], tokens: int) -> set:
    pipelines = set()
    for prompt in prompts:
        _, expected = greedy(model, prompt, tokens)
        completion = await answer(swarm, prompt, tokens)
        assert completion.tokens == expected, prompt
        assert completion.usage.restarts == 0
        pipelines.add(completion.pipeline)
    return pipelines


async def assert_concurrent_equal(swarm: Swarm, model: Path, tokens: int) -> None:
    """Eight sessions of different lengths at once."""
    lengths = [tokens - 2 * number for number in range(8)]
    wanted = [
        greedy(model, prompt, tokens)[1][:length]
        for prompt, length in zip(PROMPTS, lengths, strict=False)
    ]
    completions = await asyncio.gather(
        *(answer(swarm, prompt, length) for prompt, length in zip(PROMPTS, lengths, strict=False))
    )
    assert [completion.tokens for completion in completions] == wanted


async def assert_seeded_sampling_repeats(swarm: Swarm) -> None:
    options = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}
    one = await answer(swarm, PROMPTS[0], 24, seed=7, **options)
    same = await answer(swarm, PROMPTS[0], 24, seed=7, **options)
    other = await answer(swarm, PROMPTS[0], 24, seed=8, **options)
    assert one.tokens == same.tokens
    assert one.tokens != other.tokens


async def test_three_peers_equal_one_process(swarm_of: MakeSwarm, smollm2: Path):
    async with (
        swarm_of(330, 380, 450) as made,
        Swarm.connect(await made.guest()) as swarm,
    ):
        pipelines = await assert_equal(swarm, smollm2, PROMPTS[:3], 24)
        assert all(len(pipeline) > 1 for pipeline in pipelines)
        await assert_concurrent_equal(swarm, smollm2, 24)
        await assert_seeded_sampling_repeats(swarm)


@pytest.mark.slow
@pytest.mark.parametrize("memory_mb", [(480, 480), (330, 380, 450), (300, 320, 340, 400)])
async def test_twenty_prompts_equal_one_process(
    swarm_of: MakeSwarm, smollm2: Path, memory_mb: tuple[int, ...]
):
    async with swarm_of(*memory_mb) as made, Swarm.connect(await made.guest()) as swarm:
        pipelines = await assert_equal(swarm, smollm2, PROMPTS, 64)
        assert all(len(pipeline) > 1 for pipeline in pipelines)
        await assert_concurrent_equal(swarm, smollm2, 64)
        await assert_seeded_sampling_repeats(swarm)


async def test_pipeline_entered_mid_range_equals_one_process(tmp_path: Path, smollm2: Path):
    async with lab(tmp_path, smollm2) as made:
        ranges = {420: "0-11", 421: "10-21", 422: "20-30"}
        made.give_ranges(ranges)
        await made.bootstrap()
        for memory in ranges:
            await made.peer(f"p{memory}", memory)
        await made.serving(*(f"p{memory}" for memory in ranges))
        async with Swarm.connect(await made.guest()) as swarm:
            pipelines = await assert_equal(swarm, smollm2, PROMPTS[:3], 24)
            held = {peer: said.serving for peer, said in swarm.view.members.items()}
            entered = [layers.start - held[p].start for stages in pipelines for p, layers in stages]
            assert max(entered) > 0
