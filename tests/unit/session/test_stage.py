from dataclasses import replace

import pytest
from msgspec import structs

from helix_p2p.errors import Busy, PoisonedActivation, ProtocolError
from helix_p2p.routing.admission import KvLedger
from helix_p2p.session.effects import CloseCache, OpenCache, RunStep, Send, SendRows
from helix_p2p.session.limits import ModelLimits
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


MODEL = ModelLimits(layers=8, context_tokens=1000, vocab_size=100)


def machine(kv=1000, **limits):
    stage = StageMachine(ME, MODEL, KvLedger(kv), StageLimits(**limits))
    stage.serve(LayerRange(2, 8))
    return stage


def opening(session=ONE, attempt=1, kv_tokens=20, layers=None, last=None):
    layers = layers or ((2, 8) if last else (2, 6))
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
        (opening(kv_tokens=1001), "protocol"),
        (opening(kv_tokens=2**63), "protocol"),
        (opening(session=SessionId(b"short")), "protocol"),
        (opening(layers=(2, 9)), "protocol"),
        (opening(layers=(2, 8)), "protocol"),
        (opening(layers=(2, 6), last=LastStage(Sampling())), "protocol"),
        (structs.replace(opening(), next=ME), "protocol"),
        (structs.replace(opening(), next=None), "protocol"),
        (structs.replace(opening(), previous=ME), "protocol"),
        (opening(layers=(0, 6)), "protocol"),
        (opening(last=LastStage(Sampling(temperature=float("nan")))), "protocol"),
        (opening(last=LastStage(Sampling(top_p=float("inf")))), "protocol"),
        (opening(last=LastStage(Sampling(repetition_penalty=0.0)), layers=(2, 8)), "protocol"),
        (opening(last=LastStage(Sampling(), history=(100,))), "protocol"),
        (opening(last=LastStage(Sampling(), history=(-1,))), "protocol"),
        (opening(last=LastStage(Sampling(), history=(1,) * 21)), "protocol"),
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
    stolen = structs.replace(opening(attempt=2), entry=PeerId("thief"))
    effects = stage.on_open(PeerId("thief"), stolen, 0.0)
    assert [(e.to, e.message.failure.code) for e in effects] == [(PeerId("thief"), "protocol")]
    assert steps(stage.on_forward(BEFORE, frame(), ["x"], 0.0))


def test_open_of_an_older_attempt_that_comes_late_changes_nothing():
    stage = machine()
    stage.on_open(ENTRY, opening(attempt=2), 0.0)
    assert stage.on_open(ENTRY, opening(attempt=1, kv_tokens=5), 0.0) == []
    assert steps(stage.on_forward(BEFORE, frame(attempt=2), ["x"], 0.0))


def filled_stage():
    """Its session ran positions 0 to 2 in its second attempt."""
    stage = machine()
    stage.on_open(ENTRY, opening(attempt=1), 0.0)
    stage.on_open(ENTRY, opening(attempt=2), 0.0)
    (step,) = steps(stage.on_forward(BEFORE, frame(attempt=2, count=3), ["x"], 0.0))
    assert step.rows[0].payload == "x"
    stage.on_step_done([None])
    return stage


@pytest.mark.parametrize(
    "stale",
    [frame(attempt=1, position=3), frame(attempt=2, position=2)],
    ids=["old attempt", "duplicate"],
)
def test_frame_that_was_seen_or_is_of_an_old_attempt_has_no_effect(stale):
    stage = filled_stage()
    assert stage.on_forward(BEFORE, stale, ["y"], 0.0) == []
    assert steps(stage.on_forward(BEFORE, frame(attempt=2, position=3), ["z"], 0.0))


@pytest.mark.parametrize(
    "broken",
    [frame(attempt=2, position=4), frame(attempt=2, position=3, count=18)],
    ids=["gap", "beyond its room"],
)
def test_row_that_cannot_follow_is_reported_to_the_entry_peer_at_once(broken):
    stage = filled_stage()
    effects = stage.on_forward(BEFORE, broken, ["y"], 0.0)
    (told,) = [e for e in effects if isinstance(e, Send)]
    assert (told.to, told.message.session, told.message.peer) == (ENTRY, ONE, BEFORE)
    assert stage.sessions == 0


@pytest.mark.parametrize(
    "unknown",
    [frame(session=TWO, attempt=2, position=3), frame(attempt=3, position=3)],
    ids=["unknown session", "future attempt"],
)
def test_row_of_an_unknown_session_is_sent_back_and_the_stage_before_tells_the_entry_peer(unknown):
    stage = filled_stage()
    (told,) = stage.on_forward(BEFORE, unknown, ["y"], 0.0)
    assert told.to == BEFORE
    failed = told.message
    assert (failed.session, failed.peer) == (unknown.sessions[0], ME)
    assert stage.sessions == 1

    before = machine()
    before.on_open(ENTRY, opening(failed.session, failed.attempt), 0.0)
    assert before.on_stage_failed(PeerId("stranger"), failed) == []
    assert before.on_stage_failed(AFTER, replace(failed, attempt=9)) == []
    closed, passed_on = before.on_stage_failed(AFTER, failed)
    assert closed == CloseCache(failed.session)
    assert passed_on == Send(ENTRY, replace(failed, peer=AFTER))
    assert before.on_stage_failed(AFTER, failed) == []


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
    effects = stage.on_step_done([None])
    (sent,) = [e for e in effects if isinstance(e, SendRows)]
    assert (sent.to, sent.rows, sent.message.sessions) == (AFTER, (0,), (ONE,))
    (token,) = [e for e in stage.on_step_done([42]) if isinstance(e, Send)]
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
    assert [row.session for row in steps(effects)[0].rows] == [ONE]
    effects = stage.on_step_failed(Busy("no room"))
    effects += stage.on_step_failed(Busy("no room"))
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
    closed, told = stage.tick(10.0)
    assert closed == CloseCache(ONE)
    assert (told.to, told.message.session, told.message.failure.code) == (ENTRY, ONE, "busy")
    assert stage.tick(15.0)[0] == CloseCache(TWO)


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
        Forward(Phase.PREFILL, (ONE,), (1,), (0,), (2049,), (True,)),
        Forward(Phase.PREFILL, (ONE,), (1,), (0,), (2**63,), (True,)),
    ],
)
def test_frame_with_broken_columns_is_a_protocol_error(broken):
    with pytest.raises(ProtocolError):
        check_forward(broken)


def test_engine_failure_of_one_row_leaves_the_rest_of_its_batch_alone():
    stage = machine()
    sessions = [SessionId(bytes([n]) * 16) for n in range(5)]
    for session in sessions:
        stage.on_open(ENTRY, opening(session), 0.0)
    rows = Forward(Phase.DECODE, tuple(sessions), (1,) * 5, (0,) * 5, (1,) * 5, (True,) * 5)
    effects = stage.on_forward(BEFORE, rows, list("abcde"), 0.0)
    passed = []
    while run := steps(effects):
        (step,) = run
        if any(row.payload == "d" for row in step.rows):
            effects = stage.on_step_failed(PoisonedActivation("d"))
            ended = [e.message.session for e in effects if isinstance(e, Send)]
            assert ended in ([], [sessions[3]])
        else:
            passed += [row.payload for row in step.rows]
            effects = stage.on_step_done([None] * len(step.rows))
    assert sorted(passed) == ["a", "b", "c", "e"]
    assert stage.sessions == 4


def test_two_rows_of_one_session_never_share_a_batch():
    stage = machine()
    stage.on_open(ENTRY, opening(), 0.0)
    twice = Forward(Phase.DECODE, (ONE, ONE), (1, 1), (0, 1), (1, 1), (True, True))
    (first,) = steps(stage.on_forward(BEFORE, twice, ["x", "y"], 0.0))
    (second,) = steps(stage.on_step_done([None]))
    assert [[r.payload for r in step.rows] for step in (first, second)] == [["x"], ["y"]]


@pytest.mark.parametrize(
    "frames",
    [
        [structs.replace(frame(count=1), tokens=(5,))],
        [frame(count=2), frame(count=2, position=2), frame(Phase.DECODE, position=4)],
        [frame(Phase.DECODE), frame(count=2, position=1)],
    ],
    ids=["tokens for a later stage", "decode before its prefill", "prefill after decode"],
)
def test_sender_that_no_honest_peer_is_like_ends_its_session_and_is_named(frames):
    stage = machine()
    stage.on_open(ENTRY, opening(), 0.0)
    for each in frames[:-1]:
        stage.on_forward(BEFORE, each, ["x"], 0.0)
    effects = stage.on_forward(BEFORE, frames[-1], ["x"], 0.0)
    told = [e.message for e in effects if isinstance(e, Send)]
    assert [(m.peer, m.failure.code) for m in told] == [(BEFORE, "protocol")]
    assert stage.sessions == 0


def test_stage_that_is_too_far_behind_gives_sessions_back():
    stage = machine(waiting_positions=10, kv=10_000)
    stage.on_open(ENTRY, opening(kv_tokens=100), 0.0)
    stage.on_forward(BEFORE, frame(count=8), ["running"], 0.0)
    stage.on_forward(BEFORE, frame(position=8, count=10), ["waits"], 0.0)
    effects = stage.on_forward(BEFORE, frame(position=18, count=1), ["too much"], 0.0)
    (told,) = [e.message for e in effects if isinstance(e, Send)]
    assert (told.peer, told.failure.code) == (ME, "busy")
    assert stage.waiting_rows == stage.waiting_positions == 0


def test_prefill_waits_while_the_way_to_its_next_stage_is_full_and_decode_does_not():
    stage = machine()
    stage.on_open(ENTRY, opening(ONE), 0.0)
    stage.on_open(ENTRY, opening(TWO), 0.0)
    stage.on_congested(AFTER)
    assert steps(stage.on_forward(BEFORE, frame(count=4), ["p"], 0.0)) == []
    (step,) = steps(stage.on_forward(BEFORE, frame(Phase.DECODE, TWO), ["d"], 0.0))
    assert step.rows[0].payload == "d"
    assert steps(stage.on_step_done([None])) == []
    (step,) = steps(stage.on_drained(AFTER))
    assert step.rows[0].payload == "p"


def test_short_sessions_are_counted_in_whole_blocks_as_the_engine_allocates():
    stage = machine(kv=16 * 4 * 3)
    codes = []
    for n in range(4):
        effects = stage.on_open(ENTRY, opening(SessionId(bytes([n]) * 16), kv_tokens=1), 0.0)
        codes.append(answer(effects).failure)
    assert [code is None for code in codes] == [True, True, True, False]
