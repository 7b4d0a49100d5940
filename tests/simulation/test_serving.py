import random

import pytest

from helix_p2p.session.messages import FinishReason, Generate
from helix_p2p.types import SessionId
from tests.simulation.serving import VOCAB, Swarm, expected_answer

LAYERS = 12


def request(number: int, prompt_tokens: int = 20, new: int = 30, **more) -> Generate:
    rng = random.Random(number)
    prompt = tuple(rng.randrange(VOCAB) for _ in range(prompt_tokens))
    return Generate(SessionId(number.to_bytes(16, "big")), prompt, new, **more)


def assert_exact(swarm: Swarm, asked: Generate) -> None:
    assert swarm.ended[asked.session] is FinishReason.LENGTH
    expected = expected_answer(asked.prompt, asked.max_new_tokens, swarm.layers)
    assert swarm.delivered[asked.session] == expected


def assert_all_free(swarm: Swarm) -> None:
    for peer in swarm.peers.values():
        if peer.alive:
            assert peer.ledger.used_token_layers == 0
            assert peer.stage.sessions == 0
            assert len(peer.engine.caches) == peer.stage.kept
            assert peer.entry.running == peer.entry.waiting == 0


def test_one_session_through_overlapping_ranges_equals_one_machine():
    swarm = Swarm({"a": (0, 5), "b": (3, 9), "c": (6, 12)}, LAYERS, seed=1)
    asked = request(1)
    swarm.generate("a", asked)
    swarm.run(20)
    assert_exact(swarm, asked)
    assert_all_free(swarm)


def test_many_sessions_at_once_equal_one_machine_each():
    swarm = Swarm({"a": (0, 6), "b": (6, 12), "c": (6, 12)}, LAYERS, seed=2)
    asked = [request(n, prompt_tokens=1 + 7 * n, new=5 + n) for n in range(12)]
    for each in asked:
        swarm.generate("a", each)
    swarm.run(60)
    for each in asked:
        assert_exact(swarm, each)
    assert_all_free(swarm)


@pytest.mark.parametrize("victim", ["b", "c"])
@pytest.mark.parametrize("fault", ["kill", "stop"])
@pytest.mark.parametrize("seed", range(5))
def test_stage_that_dies_or_hangs_mid_generation_changes_no_token(victim, fault, seed):
    swarm = Swarm({"a": (0, 5), "b": (4, 8), "b2": (5, 8), "c": (7, 12), "c2": (8, 12)}, 12, seed)
    asked = [request(n) for n in range(4)]
    for each in asked:
        swarm.generate("a", each)
    swarm.run(0.2 + 0.05 * seed)
    getattr(swarm, fault)(victim)
    swarm.run(60)
    for each in asked:
        assert_exact(swarm, each)
    swarm.peers[victim].alive = False
    swarm.run(120)
    assert_all_free(swarm)


def test_kill_during_the_replay_is_repaired_again():
    held = {"a": (0, 6), "b": (6, 12), "c": (6, 12), "d": (6, 12)}
    swarm = Swarm(held, LAYERS, seed=3, chunk=1)
    asked = request(1, prompt_tokens=60)
    swarm.generate("a", asked)
    swarm.run(2.0)
    swarm.kill("b")
    swarm.run(2.25)
    swarm.kill("c")
    swarm.run(60)
    assert_exact(swarm, asked)


def test_no_route_gives_one_typed_refusal_in_bounded_time():
    swarm = Swarm({"a": (0, 6), "b": (6, 12)}, LAYERS, seed=4)
    swarm.kill("b")
    asked = request(1)
    swarm.generate("a", asked)
    swarm.run(30)
    assert swarm.ended[asked.session].code in {"peer_lost", "no_route", "deadline_exceeded"}
    assert_all_free(swarm)


def test_sessions_beyond_the_kv_room_wait_and_then_run():
    swarm = Swarm({"a": (0, 6), "b": (6, 12)}, LAYERS, seed=5, kv=50 * 6 * 2)
    asked = [request(n) for n in range(7)]
    for each in asked:
        swarm.generate("a", each)
    swarm.run(1)
    assert swarm.peers["a"].entry.waiting > 0
    swarm.run(60)
    for each in asked:
        assert_exact(swarm, each)
    assert_all_free(swarm)


def test_two_entry_peers_share_the_last_stage():
    swarm = Swarm({"a": (0, 6), "a2": (0, 6), "b": (6, 12)}, LAYERS, seed=6, kv=50 * 6 * 3)
    asked = [request(n) for n in range(10)]
    for number, each in enumerate(asked):
        swarm.generate("a" if number % 2 else "a2", each)
    swarm.run(60)
    for each in asked:
        assert_exact(swarm, each)
    assert_all_free(swarm)


def test_generation_continues_from_the_tokens_that_the_client_already_has():
    swarm = Swarm({"a": (0, 12)}, LAYERS, seed=7)
    whole = expected_answer(request(1).prompt, 30, LAYERS)
    asked = request(1, generated=tuple(whole[:11]))
    swarm.generate("a", asked)
    swarm.run(20)
    assert swarm.delivered[asked.session] == whole


def test_cancelled_session_frees_every_stage():
    swarm = Swarm({"a": (0, 6), "b": (6, 12)}, LAYERS, seed=8)
    asked = request(1, new=200)
    swarm.generate("a", asked)
    swarm.run(1)
    peer = swarm.peers["a"]
    effects = peer.entry.on_cancel(asked.session.hex(), asked.session, swarm.now)
    swarm.do(peer, effects)
    swarm.run(2)
    assert_all_free(swarm)


def test_bad_requests_are_refused_with_their_reason():
    swarm = Swarm({"a": (0, 12)}, LAYERS, seed=9)
    too_long = request(1, prompt_tokens=499, new=2)
    unknown_token = Generate(SessionId(b"u" * 16), (VOCAB,), 4)
    swarm.generate("a", too_long)
    swarm.generate("a", unknown_token)
    swarm.run(1)
    assert swarm.ended[too_long.session].code == "prompt_too_long"
    assert swarm.ended[unknown_token.session].code == "invalid_request"


@pytest.mark.parametrize("seed", range(40))
def test_random_swarms_with_random_faults_never_give_a_wrong_token(seed):
    rng = random.Random(seed)
    held = {"a": (0, rng.randint(3, 8)), "a2": (0, rng.randint(3, 8))}
    for index in range(rng.randint(4, 8)):
        start = rng.randint(1, 9)
        held[f"p{index}"] = (start, rng.randint(start + 1, 12))
    held |= {"z": (3, 12), "z2": (3, 12)}
    swarm = Swarm(held, LAYERS, seed, kv=rng.choice([2_000, 10_000]), chunk=rng.randint(1, 16))
    asked = [request(n, rng.randint(1, 40), rng.randint(1, 40)) for n in range(10)]
    for each in asked:
        swarm.at(rng.uniform(0, 2), lambda e=each: swarm.generate(rng.choice(["a", "a2"]), e))
    for victim in rng.sample(sorted(set(held) - {"a", "a2", "z", "z2"}), 3):
        fault = rng.choice([swarm.kill, swarm.stop])
        swarm.at(rng.uniform(0.1, 3), lambda v=victim, f=fault: f(v))
    swarm.run(120)
    for each in asked:
        assert_exact(swarm, each)
    for peer in swarm.peers.values():
        assert peer.ledger.used_token_layers <= peer.ledger.capacity_token_layers
