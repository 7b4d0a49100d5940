import pytest

from helix_p2p.errors import Busy, PoisonedActivation, ProtocolError
from helix_p2p.routing.admission import KvLedger
from helix_p2p.session.effects import CloseCache, OpenCache, RunStep, Send, SendRows
from helix_p2p.session.messages import (
    Close,
    Forward,
    LastStage,
    Open,
    Opened,
    Phase,
    Sampled,
    Sampling,
    StageFailed,
    check_forward,
)
from helix_p2p.session.stage import StageLimits, StageMachine
from helix_p2p.types import LayerRange, PeerId, SessionId

ME, ENTRY, BEFORE, AFTER = (PeerId(p) for p in ("me", "entry", "before", "after"))
ONE, TWO = SessionId(b"1" * 16), SessionId(b"2" * 16)


def machine(kv=1000, **limits):
    stage = StageMachine(ME, KvLedger(kv), StageLimits(**limits))
    stage.serve(LayerRange(2, 6))
    return stage


def opening(session=ONE, attempt=1, kv_tokens=20, layers=(2, 6), last=None):
    return Open(
        session,
        attempt,
        epoch=1,
        layers=LayerRange(*layers),
        entry=ENTRY,
        previous=BEFORE,
        next=None if last else AFTER,
        kv_tokens=kv_tokens,
        last=last,
    )


def frame(phase=Phase.PREFILL, session=ONE, attempt=1, position=0, count=1, sample=False):
    return Forward(phase, (session,), (attempt,), (position,), (count,), (sample,))


def answer(effects):
    return next(e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Opened))


def steps(effects):
    return [e for e in effects if isinstance(e, RunStep)]


def test_open_reserves_room_and_says_so():
    stage = machine()
    effects = stage.on_open(ENTRY, opening(), 0.0)
    assert answer(effects).failure is None
    assert OpenCache(ONE, LayerRange(2, 6), 20) in effects


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (opening(layers=(1, 4)), "not_serving"),
        (opening(kv_tokens=1000), "busy"),
        (opening(kv_tokens=0), "protocol"),
    ],
)
def test_open_that_does_not_fit_is_refused_and_keeps_nothing(message, code):
    stage = machine()
    effects = stage.on_open(ENTRY, message, 0.0)
    assert answer(effects).failure.code == code
    assert stage.sessions == 0
    assert not any(isinstance(e, OpenCache) for e in effects)


def test_only_the_entry_peer_opens_or_closes_its_session():
    stage = machine()
    stage.on_open(ENTRY, opening(), 0.0)
    assert stage.on_close(BEFORE, Close(ONE, 1)) == []
    effects = stage.on_open(PeerId("thief"), opening(attempt=2), 0.0)
    assert answer(effects).failure.code == "protocol"


@pytest.mark.parametrize(
    "stale",
    [
        frame(attempt=1, position=3),
        frame(attempt=3, position=3),
        frame(attempt=2, position=2),
        frame(attempt=2, position=4),
        frame(attempt=2, position=3, count=18),
        frame(session=TWO, attempt=2, position=3),
    ],
    ids=["old attempt", "future attempt", "duplicate", "gap", "beyond its room", "unknown"],
)
def test_frame_that_does_not_continue_the_session_has_no_effect(stale):
    stage = machine()
    stage.on_open(ENTRY, opening(attempt=1), 0.0)
    stage.on_open(ENTRY, opening(attempt=2), 0.0)
    (step,) = steps(stage.on_forward(BEFORE, frame(attempt=2, count=3), ["x"], 0.0))
    assert step.rows[0].payload == "x"
    stage.on_step_done([None])
    assert stage.on_forward(BEFORE, stale, ["y"], 0.0) == []


def test_frame_from_another_peer_than_the_previous_stage_has_no_effect():
    stage = machine()
    stage.on_open(ENTRY, opening(), 0.0)
    assert stage.on_forward(PeerId("stranger"), frame(), ["x"], 0.0) == []


def test_decode_rows_that_wait_are_merged_and_alternate_with_prefill():
    stage = machine(prefill_tokens=8)
    sessions = [SessionId(bytes([n]) * 16) for n in range(4)]
    for session in sessions:
        stage.on_open(ENTRY, opening(session), 0.0)
    first = stage.on_forward(BEFORE, frame(session=sessions[0], count=8), ["p0"], 0.0)
    assert len(steps(first)) == 1
    for session in sessions[1:3]:
        stage.on_forward(BEFORE, frame(Phase.DECODE, session), ["d"], 0.0)
    stage.on_forward(BEFORE, frame(session=sessions[0], position=8, count=8), ["p1"], 0.0)
    (second,) = steps(stage.on_step_done([None]))
    assert (second.phase, len(second.rows)) == (Phase.DECODE, 2)
    stage.on_forward(BEFORE, frame(Phase.DECODE, sessions[3]), ["d"], 0.0)
    (third,) = steps(stage.on_step_done([None, None]))
    assert third.phase is Phase.PREFILL
    (fourth,) = steps(stage.on_step_done([None]))
    assert (fourth.phase, len(fourth.rows)) == (Phase.DECODE, 1)


def test_prefill_of_one_long_prompt_lets_others_take_turns():
    stage = machine(prefill_tokens=4)
    for session in (ONE, TWO):
        stage.on_open(ENTRY, opening(session), 0.0)
    stage.on_forward(BEFORE, frame(count=4), ["a"], 0.0)
    for position in (4, 8, 12):
        stage.on_forward(BEFORE, frame(position=position, count=4), ["a"], 0.0)
    stage.on_forward(BEFORE, frame(session=TWO, count=4), ["b"], 0.0)
    order = []
    for _ in range(4):
        (step,) = steps(stage.on_step_done([None]))
        order.append(step.rows[0].payload)
    assert order == ["a", "b", "a", "a"]


def test_outputs_go_to_the_next_stage_and_tokens_to_the_entry_peer():
    stage = machine()
    last = LastStage(Sampling())
    stage.on_open(ENTRY, opening(ONE), 0.0)
    stage.on_open(ENTRY, opening(TWO, last=last), 0.0)
    rows = Forward(Phase.DECODE, (ONE, TWO), (1, 1), (0, 0), (1, 1), (True, True))
    stage.on_forward(BEFORE, rows, ["x", "y"], 0.0)
    effects = stage.on_step_done([None, 42])
    (sent,) = [e for e in effects if isinstance(e, SendRows)]
    assert (sent.to, sent.rows, sent.message.sessions) == (AFTER, (0,), (ONE,))
    (token,) = [e for e in effects if isinstance(e, Send)]
    assert token == Send(ENTRY, Sampled((TWO,), (1,), (1,), (42,)))


def test_repetition_penalty_sees_prompt_and_every_sampled_token():
    stage = machine()
    last = LastStage(Sampling(repetition_penalty=1.2), history=(7, 8))
    stage.on_open(ENTRY, opening(last=last), 0.0)
    stage.on_forward(BEFORE, frame(count=2, sample=True), ["x"], 0.0)
    stage.on_step_done([9])
    (step,) = steps(
        stage.on_forward(BEFORE, frame(Phase.DECODE, position=2, sample=True), ["x"], 0)
    )
    assert step.rows[0].history == (7, 8, 9)


def test_engine_failure_tells_every_session_of_the_batch_and_frees_it():
    stage = machine()
    for session in (ONE, TWO):
        stage.on_open(ENTRY, opening(session), 0.0)
    rows = Forward(Phase.DECODE, (ONE, TWO), (1, 1), (0, 0), (1, 1), (True, True))
    stage.on_forward(BEFORE, rows, ["x", "y"], 0.0)
    effects = stage.on_step_failed(Busy("no room"))
    told = [e.message for e in effects if isinstance(e, Send)]
    assert [(type(m), m.session, m.failure.code) for m in told] == [
        (StageFailed, ONE, "busy"),
        (StageFailed, TWO, "busy"),
    ]
    assert stage.sessions == 0


def test_poisoned_frame_ends_its_sessions_and_names_its_sender():
    stage = machine()
    for session in (ONE, TWO):
        stage.on_open(ENTRY, opening(session), 0.0)
    effects = stage.on_poisoned(BEFORE, frame(session=ONE), PoisonedActivation("not finite"))
    (told,) = [e.message for e in effects if isinstance(e, Send)]
    assert (told.session, told.peer, told.failure.code) == (ONE, BEFORE, "poisoned_activation")
    assert stage.sessions == 1
    assert stage.on_poisoned(PeerId("stranger"), frame(session=TWO), PoisonedActivation("")) == []


def test_lost_entry_peer_frees_the_session_and_lost_next_stage_is_reported():
    stage = machine()
    stage.on_open(ENTRY, opening(), 0.0)
    (told,) = stage.on_peer_lost(AFTER)
    assert (told.to, told.message.peer) == (ENTRY, AFTER)
    assert stage.on_peer_lost(ENTRY) == [CloseCache(ONE)]


def test_silent_session_expires_and_an_active_one_does_not():
    stage = machine(session_idle_s=10.0)
    stage.on_open(ENTRY, opening(ONE), 0.0)
    stage.on_open(ENTRY, opening(TWO), 0.0)
    stage.on_forward(BEFORE, frame(session=TWO), ["x"], 5.0)
    assert stage.tick(10.0) == [CloseCache(ONE)]
    assert stage.tick(15.0) == [CloseCache(TWO)]


def test_leaving_peer_keeps_its_sessions_and_takes_no_new_ones():
    stage = machine()
    stage.on_open(ENTRY, opening(ONE), 0.0)
    stage.serve(LayerRange(2, 6), draining=True)
    assert answer(stage.on_open(ENTRY, opening(TWO), 0.0)).failure.code == "not_serving"
    assert steps(stage.on_forward(BEFORE, frame(), ["x"], 0.0))


@pytest.mark.parametrize(
    "broken",
    [
        Forward(Phase.DECODE, (), (), (), (), ()),
        Forward(Phase.DECODE, (ONE,), (1, 2), (0,), (1,), (True,)),
        Forward(Phase.DECODE, (ONE,), (1,), (0,), (2,), (True,)),
        Forward(Phase.PREFILL, (ONE,), (1,), (-1,), (2,), (True,)),
        Forward(Phase.PREFILL, (ONE,), (1,), (0,), (2,), (True,), tokens=(1,)),
    ],
)
def test_frame_with_broken_columns_is_a_protocol_error(broken):
    with pytest.raises(ProtocolError):
        check_forward(broken)
