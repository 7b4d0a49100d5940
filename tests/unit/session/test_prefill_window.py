"""How much prefill is on its way: as much as the pipelines carry."""

from collections import deque

from helix_p2p.session.prefill_window import FIRST_TOKENS, LEAST_TOKENS, MOST_TOKENS, PrefillWindow
from helix_p2p.types import PeerId, SessionId

A, B, SLOW_PEER = PeerId("a"), PeerId("b"), PeerId("slow")


def name(number: int) -> SessionId:
    return SessionId(number.to_bytes(16, "big"))


def through_a_pipe(window: PrefillWindow, tokens_per_s: float, until_s: float) -> float:
    """Prompts of 500 tokens over a pipe that is never short of them; the last one's time in it."""
    on_way: deque[tuple[int, float]] = deque()
    number, now_s, free_s, took_s = 0, 0.0, 0.0, 0.0
    while now_s < until_s:
        while window.has_room:
            number += 1
            window.start(name(number), 500, (A, B))
            window.feed(name(number), 500, now_s)
            on_way.append((number, now_s))
        first, fed_s = on_way.popleft()
        free_s = max(free_s, fed_s) + 500 / tokens_per_s
        now_s = free_s + 1.0  # a second of latency, whatever the load
        took_s = now_s - fed_s
        window.answer(name(first), now_s)
    return took_s


def test_a_fast_pipe_opens_the_window_and_a_slow_one_keeps_it_small():
    fast, slow = PrefillWindow(), PrefillWindow()
    through_a_pipe(fast, 50_000.0, 60.0)
    through_a_pipe(slow, 500.0, 600.0)
    assert fast.window_tokens > 10 * FIRST_TOKENS
    assert slow.window_tokens < 2 * FIRST_TOKENS


def test_a_prompt_takes_a_few_times_what_it_takes_alone_however_many_wait():
    alone_s = 500 / 500.0 + 1.0
    assert through_a_pipe(PrefillWindow(), 500.0, 1200.0) < 5 * alone_s


def test_one_prompt_may_always_go():
    window = PrefillWindow()
    for number in range(200):  # each slower than the one before
        window.start(name(number), MOST_TOKENS + 1, (A,))
        assert not window.has_room
        window.feed(name(number), MOST_TOKENS + 1, 1000.0 * number)
        window.answer(name(number), 1000.0 * number + 2.0 ** min(number, 9))
        assert window.has_room
        assert window.window_tokens >= LEAST_TOKENS


def test_a_slow_route_does_not_make_a_fast_one_look_congested():
    window = PrefillWindow()
    for number in range(40):
        peers, took_s = ((A, B), 1.0) if number % 2 else ((A, SLOW_PEER), 20.0)
        window.start(name(number), 500, peers)
        window.feed(name(number), 500, 100.0 * number)
        window.answer(name(number), 100.0 * number + took_s)
    assert window.window_tokens >= FIRST_TOKENS


def test_a_prompt_that_fails_gives_its_room_back_once():
    window = PrefillWindow()
    window.start(name(1), FIRST_TOKENS, (A,))
    assert not window.has_room
    window.end(name(1))
    window.end(name(1))
    window.answer(name(1), 5.0)
    assert window.tokens == 0
    assert window.has_room


def test_what_the_stages_have_already_is_not_on_its_way():
    window = PrefillWindow()
    window.start(name(1), FIRST_TOKENS, (A,))
    assert not window.has_room
    window.feed(name(1), 100, 0.0)
    assert window.tokens == 100
    assert window.has_room
    window.answer(name(1), 1.0)
    assert window.tokens == 0
