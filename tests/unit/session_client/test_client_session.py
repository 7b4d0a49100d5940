from random import Random

import pytest

from helix_p2p.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    HandshakeRefused,
    HelixError,
    InvalidRequest,
    NoRoute,
    PeerLost,
    PeerUnreachable,
    ProtocolError,
)
from helix_p2p.session.client import ClientSession
from helix_p2p.session.client_values import (
    Effect,
    Ended,
    GenerationRequest,
    Limits,
    RefreshView,
    Send,
    Tokens,
)
from helix_p2p.session.entry_choice import EntryCandidate, EntryChoice
from helix_p2p.session.messages import Cancel, Delivered, Failure, FinishReason, Generate, Refused
from helix_p2p.types import LayerRange, PeerId

A, B, C = PeerId("A"), PeerId("B"), PeerId("C")
EOS = 99


def session(
    *peers: PeerId,
    limits: Limits | None = None,
    max_new_tokens: int = 4,
    ignore_eos: bool = False,
) -> tuple[ClientSession, EntryChoice]:
    choice = EntryChoice(Random(7))
    choice.update(EntryCandidate(peer, 1000) for peer in peers)
    request = GenerationRequest((1, 2), max_new_tokens, 100, eos=(EOS,), ignore_eos=ignore_eos)
    return ClientSession(request, choice, Random(7), limits), choice


def asked(effects: list[Effect]) -> tuple[PeerId, Generate]:
    [found] = [e for e in effects if isinstance(e, Send) and isinstance(e.message, Generate)]
    assert isinstance(found.message, Generate)
    return found.peer, found.message


def ended(effects: list[Effect]) -> Ended:
    [found] = [effect for effect in effects if isinstance(effect, Ended)]
    assert effects[-1] is found
    return found


def failed(effects: list[Effect]) -> HelixError:
    error = ended(effects).error
    assert error is not None
    return error


def deliver(message: Generate, first: int, *tokens: int, **fields: object) -> Delivered:
    return Delivered(message.session, first, tokens, **fields)  # type: ignore[arg-type]


def refuse(message: Generate, error: HelixError) -> Refused:
    return Refused(message.session, Failure(error.code, error.message, error.retry_after_s))


def test_answer_ends_at_max_new_tokens():
    machine, _ = session(A)
    peer, message = asked(machine.start(0.0))
    assert (peer, message.prompt, message.generated) == (A, (1, 2), ())
    pipeline = ((A, LayerRange(0, 4)),)
    assert machine.on_message(A, deliver(message, 0, 5, 6, pipeline=pipeline), 1.0) == [
        Tokens(0, (5, 6))
    ]
    last = deliver(message, 2, 7, 8, finished=FinishReason.LENGTH)
    assert machine.on_message(A, last, 2.0) == [Tokens(2, (7, 8)), Ended(FinishReason.LENGTH)]
    assert machine.tokens == (5, 6, 7, 8)
    assert machine.pipeline == pipeline
    assert machine.wake_s is None


def test_end_token_ends_the_answer_even_if_the_peer_does_not_say_so():
    machine, _ = session(A)
    _, message = asked(machine.start(0.0))
    effects = machine.on_message(A, deliver(message, 0, 5, EOS, 6), 1.0)
    assert effects == [
        Tokens(0, (5, EOS)),
        Send(A, Cancel(message.session)),
        Ended(FinishReason.STOP),
    ]


def test_ignore_eos_goes_on_to_the_length():
    machine, _ = session(A, ignore_eos=True)
    _, message = asked(machine.start(0.0))
    assert message.ignore_eos
    effects = machine.on_message(
        A, deliver(message, 0, EOS, EOS, EOS, EOS, finished=FinishReason.LENGTH), 1.0
    )
    assert ended(effects).finished is FinishReason.LENGTH


def test_duplicates_and_overlaps_are_dropped():
    machine, _ = session(A)
    _, message = asked(machine.start(0.0))
    machine.on_message(A, deliver(message, 0, 5, 6), 1.0)
    assert machine.on_message(A, deliver(message, 0, 5, 6), 1.0) == []
    assert machine.on_message(A, deliver(message, 1, 6, 7), 1.0) == [Tokens(2, (7,))]
    assert machine.on_message(A, deliver(message, 0, 5), 1.0) == []


def test_lost_entry_peer_is_replaced_and_gets_the_tokens_so_far():
    machine, _ = session(A, B)
    first, message = asked(machine.start(0.0))
    machine.on_message(first, deliver(message, 0, 5, 6), 1.0)
    effects = machine.on_lost(first, PeerLost("gone"), 2.0)
    assert RefreshView() in effects
    second, again = asked(effects)
    assert second != first
    assert again.generated == (5, 6)
    assert again.session != message.session
    assert again.avoid == (first,)
    assert machine.on_message(first, deliver(message, 2, 66), 2.1) == []
    done = deliver(again, 2, 7, 8, finished=FinishReason.LENGTH)
    assert ended(machine.on_message(second, done, 3.0)).finished is FinishReason.LENGTH
    assert machine.tokens == (5, 6, 7, 8)
    assert machine.restarts == 1


@pytest.mark.parametrize(
    ("first_index", "tokens"),
    [(3, (9,)), (1, (77,)), (0, (5, 6, 7, 8, 9)), (2, (100,)), (2, (-1,)), (-1, (5,))],
    ids=["gap", "changed", "too many", "outside vocabulary", "negative", "negative index"],
)
def test_peer_that_breaks_the_numbering_is_left(first_index: int, tokens: tuple[int, ...]):
    machine, choice = session(A, B)
    peer, message = asked(machine.start(0.0))
    machine.on_message(peer, deliver(message, 0, 5, 6), 1.0)
    effects = machine.on_message(peer, deliver(message, first_index, *tokens), 2.0)
    assert Send(peer, Cancel(message.session)) in effects
    other, again = asked(effects)
    assert other != peer
    assert again.generated == (5, 6)
    assert choice.masked(2.0) == {peer}


@pytest.mark.parametrize("finished", list(FinishReason))
def test_peer_that_ends_too_early_is_left(finished: FinishReason):
    machine, _ = session(A, B)
    peer, message = asked(machine.start(0.0))
    effects = machine.on_message(peer, deliver(message, 0, 5, finished=finished), 1.0)
    assert Tokens(0, (5,)) in effects
    assert asked(effects)[1].generated == (5,)


def test_message_from_another_peer_has_no_effect():
    machine, _ = session(A, B)
    peer, message = asked(machine.start(0.0))
    other = B if peer == A else A
    assert machine.on_message(other, deliver(message, 0, 66), 1.0) == []
    assert machine.on_lost(other, PeerLost("gone"), 1.0) == []


def test_request_that_is_wrong_is_not_tried_again():
    machine, _ = session(A, B)
    peer, message = asked(machine.start(0.0))
    effects = machine.on_message(peer, refuse(message, InvalidRequest("no")), 1.0)
    assert isinstance(failed(effects), InvalidRequest)


def test_busy_peer_is_not_masked_and_another_is_tried_at_once():
    machine, _ = session(A, B)
    peer, message = asked(machine.start(0.0))
    effects = machine.on_message(peer, refuse(message, Busy("full", retry_after_s=2.0)), 1.0)
    other, again = asked(effects)
    assert other != peer
    assert again.avoid == ()
    effects = machine.on_message(other, refuse(again, Busy("full", retry_after_s=2.0)), 1.0)
    assert effects == [RefreshView(crowded=True)]
    assert machine.wake_s == 3.0
    assert machine.on_tick(2.9) == []
    asked(machine.on_tick(3.0))


def test_refusals_are_finite_and_the_last_one_is_told():
    machine, _ = session(A)
    effects, now_s, refusals = machine.start(0.0), 0.0, 0
    while not machine.ended:
        if any(isinstance(effect, Send) for effect in effects):
            _, message = asked(effects)
            refusals += 1
            effects = machine.on_message(A, refuse(message, Busy("full", retry_after_s=1)), now_s)
        else:
            assert machine.wake_s is not None
            now_s = machine.wake_s
            effects = machine.on_tick(now_s)
    error = failed(effects)
    assert isinstance(error, Busy)
    assert error.retry_after_s == 1
    assert refusals == Limits().refusals


@pytest.mark.parametrize("asked_s", [1e9, float("inf"), float("nan"), -5.0])
def test_peer_cannot_make_the_client_wait_long(asked_s: float):
    machine, _ = session(A)
    _, message = asked(machine.start(0.0))
    machine.on_message(A, refuse(message, Busy("full", retry_after_s=asked_s)), 1.0)
    assert machine.wake_s is not None
    assert machine.wake_s <= 1.0 + Limits().retry_after_limit_s


def test_client_that_every_entry_peer_shuts_out_is_told_at_once_and_one_alone_cannot():
    machine, _ = session(A, B)
    first, _ = asked(machine.start(0.0))
    second, _ = asked(machine.on_lost(first, HandshakeRefused("revoked"), 0.1))
    assert isinstance(
        failed(machine.on_lost(second, HandshakeRefused("revoked"), 0.2)), HandshakeRefused
    )


def test_unreachable_swarm_ends_in_the_last_error_within_patience():
    machine, _ = session(A, B)
    effects, now_s, attempts = machine.start(0.0), 0.0, 0
    while not machine.ended:
        if any(isinstance(effect, Send) for effect in effects):
            attempts += 1
            assert machine.entry is not None
            effects = machine.on_lost(machine.entry, PeerUnreachable("no way"), now_s)
        else:
            assert machine.wake_s is not None
            now_s = machine.wake_s
            effects = machine.on_tick(now_s)
    assert isinstance(failed(effects), PeerUnreachable)
    assert attempts <= Limits().attempts
    assert now_s <= Limits().patience_s + Limits().pause_limit_s


def test_without_an_entry_peer_it_waits_for_one_to_come():
    machine, choice = session()
    assert machine.start(0.0) == [RefreshView()]
    assert machine.wake_s is not None
    assert machine.on_tick(machine.wake_s) == [RefreshView()]
    assert machine.on_view(0.5) == []
    choice.update([EntryCandidate(A, 1)])
    assert asked(machine.on_view(0.6))[0] == A


def test_without_an_entry_peer_it_gives_up_with_no_route():
    machine, _ = session()
    effects = machine.start(0.0)
    for _ in range(1000):
        if machine.ended:
            break
        assert machine.wake_s is not None
        effects = machine.on_tick(machine.wake_s)
    assert isinstance(failed(effects), NoRoute)


def test_lone_entry_peer_that_failed_is_tried_again_after_a_pause():
    machine, _ = session(A)
    asked(machine.start(0.0))
    assert machine.on_lost(A, PeerLost("gone"), 1.0) == [RefreshView()]
    assert machine.wake_s is not None
    assert 1.0 < machine.wake_s < 2.0
    assert asked(machine.on_tick(machine.wake_s))[0] == A


def test_silent_entry_peer_is_left():
    machine, choice = session(
        A, B, limits=Limits(first_silence_s=10.0, silence_s=3.0, prefill_s_per_token=0.0)
    )
    peer, message = asked(machine.start(0.0))
    assert machine.wake_s == 10.0
    machine.on_message(peer, deliver(message, 0, 5), 9.0)
    assert machine.wake_s == 12.0
    assert machine.on_tick(11.9) == []
    effects = machine.on_tick(12.0)
    assert Send(peer, Cancel(message.session)) in effects
    assert asked(effects)[0] != peer
    assert choice.masked(12.0) == {peer}
    assert machine.wake_s == 22.0


def test_long_prompt_is_given_the_time_it_takes():
    machine, _ = session(A, limits=Limits(first_silence_s=10.0, prefill_s_per_token=0.5))
    machine.start(0.0)
    assert machine.wake_s == 11.0


def test_empty_delivery_is_a_sign_of_life():
    machine, _ = session(A, limits=Limits(first_silence_s=10.0, prefill_s_per_token=0.0))
    _, message = asked(machine.start(0.0))
    assert machine.on_message(A, deliver(message, 0), 8.0) == []
    assert machine.wake_s == 18.0


@pytest.mark.parametrize(
    ("limits", "at_s", "what"),
    [
        (Limits(first_token_s=5.0), 5.0, "first token"),
        (Limits(total_s=6.0), 6.0, "answer"),
    ],
)
def test_callers_deadline_ends_it(limits: Limits, at_s: float, what: str):
    machine, _ = session(A, limits=limits)
    _, message = asked(machine.start(0.0))
    assert machine.wake_s == at_s
    effects = machine.on_tick(at_s)
    assert effects[0] == Send(A, Cancel(message.session))
    assert isinstance(failed(effects), DeadlineExceeded)
    assert what in str(failed(effects))


def test_deadline_between_tokens_spans_a_change_of_peers():
    machine, _ = session(A, B, limits=Limits(first_token_s=1.0, between_tokens_s=4.0))
    peer, message = asked(machine.start(0.0))
    machine.on_message(peer, deliver(message, 0, 5), 0.5)
    assert machine.wake_s == 4.5
    machine.on_lost(peer, PeerLost("gone"), 3.0)
    effects = machine.on_tick(4.5)
    assert isinstance(failed(effects), DeadlineExceeded)
    assert "gone" in str(failed(effects))


def test_cancel_tells_the_peer_and_ends():
    machine, _ = session(A)
    _, message = asked(machine.start(0.0))
    effects = machine.cancel()
    assert effects[0] == Send(A, Cancel(message.session))
    assert isinstance(failed(effects), Cancelled)
    assert machine.cancel() == []
    assert machine.on_message(A, deliver(message, 0, 5), 1.0) == []
    assert machine.on_tick(1e9) == []


def test_new_tokens_make_former_trouble_forgotten():
    machine, _ = session(A, B, max_new_tokens=50)
    effects, now_s = machine.start(0.0), 0.0
    for index in range(50):
        peer, message = asked(effects)
        now_s += 1.0
        finished = FinishReason.LENGTH if index == 49 else None
        effects = machine.on_message(peer, deliver(message, index, 5, finished=finished), now_s)
        if machine.ended:
            break
        effects = machine.on_message(peer, refuse(message, Busy("full")), now_s)
    assert ended(effects).finished is FinishReason.LENGTH
    assert machine.restarts == 49


def test_unknown_error_of_a_peer_is_that_peers_fault():
    machine, _ = session(A, B)
    peer, message = asked(machine.start(0.0))
    wrong = Refused(message.session, Failure("what-is-this", "?"))
    assert asked(machine.on_message(peer, wrong, 1.0))[0] != peer
    assert isinstance(machine._error, ProtocolError)
