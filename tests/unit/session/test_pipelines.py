import random

from helix_p2p.routing.route import Hop
from helix_p2p.session.effects import ClientKey
from helix_p2p.session.generation import EntryLimits, Generation
from helix_p2p.session.messages import Close, FinishReason, Forward, Generate, Open, Phase
from helix_p2p.session.pipelines import Pipelines
from helix_p2p.session.prefill_window import FIRST_TOKENS
from helix_p2p.session.prefixes import PREFIX_BLOCK_TOKENS
from helix_p2p.types import LayerRange, PeerId, SessionId

ME, LAST, ANN, HOG = (PeerId(p) for p in ("me", "last", "ann", "hog"))
ROUTE = (Hop(ME, LayerRange(0, 4)), Hop(LAST, LayerRange(4, 8)))


def generation(number=1, prompt=3, identity=ANN, **more):
    request = Generate(SessionId(bytes([number]) * 16), (1,) * prompt, 9, **more)
    return Generation(ClientKey("ann/0"), identity, request, number, 30.0, list(request.prompt))


def pipelines(**limits):
    return Pipelines(ME, random.Random(1), EntryLimits(**limits))


def begin(made, running, width=1, reused=0):
    sends = made.open(running, ROUTE, width, 1)
    for hop in ROUTE:
        whole = made.opened(running, hop.peer, reused)
    assert whole
    return sends


def test_each_pipeline_has_a_new_name_and_what_names_an_older_one_is_nobodys():
    made, running = pipelines(), generation()
    (first, _) = made.open(running, ROUTE, 1, 1)
    made.end(running, None, keep=False)
    (second, _) = made.open(running, ROUTE, 1, 1)
    assert (first.message.attempt, second.message.attempt) == (1, 2)
    assert len({running.request.session, first.message.session, second.message.session}) == 3
    assert made.current(first.message.session, 1) is None
    assert made.current(second.message.session, 1) is None
    assert made.current(second.message.session, 2) is running
    assert made.named(second.message.session) is running


def test_a_pipeline_is_whole_once_every_stage_has_room_and_uses_what_all_of_them_have():
    made, running = pipelines(), generation(prompt=3 * PREFIX_BLOCK_TOKENS)
    made.open(running, ROUTE, 1, 1)
    assert not made.opened(running, ME, 2 * PREFIX_BLOCK_TOKENS)
    assert made.opened(running, LAST, PREFIX_BLOCK_TOKENS)
    (chunk,) = made.feed(running, 0.0)
    assert isinstance(chunk.message, Forward)
    assert chunk.message.positions == (PREFIX_BLOCK_TOKENS,)


def test_the_last_token_is_fed_whatever_a_stage_says_it_has():
    for said in (10**9, -5):
        made, running = pipelines(), generation(prompt=2 * PREFIX_BLOCK_TOKENS)
        begin(made, running, reused=said)
        (chunk,) = made.feed(running, 0.0)
        assert chunk.message.positions == (PREFIX_BLOCK_TOKENS if said > 0 else 0,)


def test_prompts_on_their_way_fill_the_window_until_they_are_answered_or_over():
    made = pipelines()
    one, two = (generation(n, prompt=FIRST_TOKENS) for n in (1, 2))
    begin(made, one)
    assert not made.has_room
    made.end(one, None, keep=False)
    assert made.has_room
    begin(made, two)
    made.feed(two, 0.0)
    assert not made.has_room
    made.returned(two, 1.0)
    assert made.has_room


def test_ready_tokens_share_a_frame_and_wait_while_the_window_is_full():
    made = pipelines()
    one, two = (generation(n) for n in (1, 2))
    for running in (one, two):
        begin(made, running)
        made.ready(running)
    (frame,) = made.decode(0.0)
    assert (frame.to, frame.message.phase) == (ME, Phase.DECODE)
    assert frame.message.sessions == (one.name, two.name)
    made.returned(one, 0.1)
    made.ready(one)
    assert made.decode(0.1) == []
    made.end(two, None, keep=False)
    assert [f.message.sessions for f in made.decode(0.2)] == [(one.name,)]


def test_the_end_is_told_to_every_stage_but_the_lost_one_and_only_once():
    made, running = pipelines(), generation()
    begin(made, running)
    closings = made.end(running, LAST, keep=False)
    assert [(send.to, type(send.message)) for send in closings] == [(ME, Close)]
    assert made.end(running, None, keep=False) == []


def test_two_clients_or_two_entry_peers_never_share_a_chain():
    prompt = PREFIX_BLOCK_TOKENS + 1
    made = pipelines()
    chains = set()
    for where, identity in (
        (made, ANN),
        (made, HOG),
        (Pipelines(ME, random.Random(2), EntryLimits()), ANN),
    ):
        (first, _) = where.open(generation(prompt=prompt, identity=identity), ROUTE, 1, 1)
        assert isinstance(first.message, Open)
        chains.add(first.message.prefix[1:])
    assert len(chains) == 3
    (plain, _) = pipelines(reuse_prefixes=False).open(generation(prompt=prompt), ROUTE, 1, 1)
    assert plain.message.prefix == ()


def test_an_answer_ends_with_an_end_token_or_at_its_length():
    running = generation(eos=(7,))
    running.tokens += [5, 7]
    assert running.finish_reason is FinishReason.STOP
    running = generation(eos=(7,), ignore_eos=True)
    running.tokens += [7] * 8
    assert running.finish_reason is None
    running.tokens.append(7)
    assert running.finish_reason is FinishReason.LENGTH
