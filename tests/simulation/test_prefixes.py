"""Prompts that begin alike through whole pipelines: less is computed, never another token."""

import random

import pytest

from helix_p2p.session.messages import FinishReason, Generate
from helix_p2p.types import SessionId
from tests.simulation.serving import VOCAB, Swarm, expected_answer
from tests.simulation.test_serving import assert_all_free, assert_exact

HELD = {"a": (0, 5), "b": (3, 9), "c": (6, 12)}
LAYERS = 12


def words(seed: int, count: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(VOCAB) for _ in range(count))


def ask(number: int, prompt: tuple[int, ...], new: int = 10) -> Generate:
    return Generate(SessionId(number.to_bytes(16, "big")), prompt, new)


def one_after_another(swarm: Swarm, *asked: Generate) -> None:
    for each in asked:
        swarm.generate("a", each)
        while each.session not in swarm.ended and swarm.now < 600:
            swarm.run(swarm.now + 1)
        assert_exact(swarm, each)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_chat_computes_each_turn_once(reuse: bool) -> None:
    swarm = Swarm(HELD, LAYERS, seed=1, reuse=reuse, chunk=50)
    prompt = words(1, 150)
    turns = []
    for number in range(3):
        turns.append(ask(number, prompt))
        prompt += (*expected_answer(prompt, 10, LAYERS), *words(10 + number, 40))
    one_after_another(swarm, *turns)
    lengths = [len(turn.prompt) + 9 for turn in turns]  # the last token is not fed
    saved = 128 + 192 if reuse else 0  # whole blocks of 159 and of 209 positions
    for peer in swarm.peers.values():
        assert peer.engine.computed == sum(lengths) - saved
    assert_all_free(swarm)


def test_a_shared_beginning_is_computed_once_while_its_session_still_runs() -> None:
    swarm = Swarm(HELD, LAYERS, seed=2, chunk=200)
    system = words(2, 128)
    first, second = ask(1, system + words(3, 10), 200), ask(2, system + words(4, 20))
    swarm.generate("a", first)
    while len(swarm.delivered[first.session]) < 2:
        swarm.run(swarm.now + 0.1)
    before = swarm.peers["c"].engine.computed
    swarm.generate("a", second)
    swarm.run(swarm.now + 60)
    for each in (first, second):
        assert_exact(swarm, each)
    after = swarm.peers["c"].engine.computed
    assert after - before < 200 + 20 + 10  # the rest of both, and not 128 again
    assert_all_free(swarm)


def test_another_clients_prompts_are_nobody_elses() -> None:
    swarm = Swarm(HELD, LAYERS, seed=3, chunk=50)
    prompt = words(5, 130)
    one_after_another(swarm, ask(1, prompt))
    secret = swarm.peers["a"].entry._pipelines._secret
    swarm.peers["a"].entry._pipelines._secret = bytes(
        16
    )  # as another client's, or another entry peer's
    before = swarm.peers["b"].engine.computed
    one_after_another(swarm, ask(2, prompt))
    assert swarm.peers["b"].engine.computed - before == 139
    swarm.peers["a"].entry._pipelines._secret = secret
    before = swarm.peers["b"].engine.computed
    one_after_another(swarm, ask(3, prompt))
    assert swarm.peers["b"].engine.computed - before == 139 - 128


def test_a_stage_that_has_less_decides_for_the_pipeline() -> None:
    swarm = Swarm(HELD, LAYERS, seed=4, chunk=50)
    prompt = words(6, 200)
    one_after_another(swarm, ask(1, prompt))
    stage = swarm.peers["b"]
    swarm.do(stage, stage.stage.forget_kept())
    before = {name: peer.engine.computed for name, peer in swarm.peers.items()}
    one_after_another(swarm, ask(2, prompt))
    for name, peer in swarm.peers.items():
        assert peer.engine.computed - before[name] == 209


@pytest.mark.parametrize("seed", range(12))
def test_chats_through_churn_and_scarce_room_give_no_wrong_token(seed: int) -> None:
    held = {"a": (0, 6), "b": (4, 12), "c": (5, 12), "d": (6, 12)}
    flows = tuple(("a", other, 1) for other in "bcd")
    swarm = Swarm(held, LAYERS, seed=seed, kv=12 * 16 * 90, flows=flows, chunk=40)
    rng = random.Random(seed)
    beginnings = [words(100 + n, rng.randrange(60, 200)) for n in range(3)]
    asked = []
    for number in range(24):
        prompt = rng.choice(beginnings) + words(number, rng.randrange(1, 40))
        asked.append(ask(number, prompt[:300], rng.randrange(1, 30)))
        swarm.generate("a", asked[-1])
        swarm.run(swarm.now + rng.choice([0.0, 0.3, 2.0]))
        if rng.random() < 0.3:
            beginnings[rng.randrange(3)] = prompt[:250]
    swarm.kill(rng.choice("bcd"))
    swarm.run(swarm.now + 300)
    for each in asked:
        assert swarm.ended[each.session] is FinishReason.LENGTH
        assert_exact(swarm, each)
    fed = sum(len(each.prompt) + each.max_new_tokens - 1 for each in asked)
    assert swarm.peers["a"].engine.computed < fed
    assert_all_free(swarm)
