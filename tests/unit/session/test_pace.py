"""Chunks beside decoding take about as long as a decode step, on whatever device."""

import pytest

from helix_p2p.session.effects import SendRows, StepRow
from helix_p2p.session.inbox import Inbox
from helix_p2p.session.messages import LastStage, Phase, Sampling
from helix_p2p.session.pace import LEAST, PrefillPace
from helix_p2p.types import SessionId
from tests.unit.session.test_stage import BEFORE, ENTRY, ONE, TWO, frame, machine, opening, steps


@pytest.mark.parametrize(
    ("decode_s", "position_s", "positions"),
    [(0.02, 0.0001, 200), (0.02, 0.000001, 256), (0.01, 0.01, LEAST), (0.05, 0.001, 50)],
)
def test_a_chunk_takes_no_longer_than_a_decode_step(decode_s, position_s, positions):
    pace = PrefillPace(256)
    pace.ran(Phase.DECODE, 8, decode_s)
    pace.ran(Phase.PREFILL, 100, 100 * position_s)
    assert pace.positions(decoding=8, waiting=1) == pytest.approx(positions, abs=1)
    assert pace.positions(decoding=0, waiting=1) == 256


def test_one_odd_step_changes_little():
    pace = PrefillPace(256)
    for _ in range(20):
        pace.ran(Phase.DECODE, 8, 0.02)
        pace.ran(Phase.PREFILL, 100, 0.02)
    pace.ran(Phase.PREFILL, 100, 0.04)
    assert 70 < pace.positions(decoding=8, waiting=1) < 100


def decoding_machine():
    """A stage where one session decodes at 20 ms a step, and prefill takes 1 ms a position."""
    stage = machine(kv=10_000, prefill_tokens=256)
    stage.on_open(ENTRY, opening(ONE), 0.0)
    stage.on_open(ENTRY, opening(TWO, kv_tokens=500), 0.0)
    stage.on_forward(BEFORE, frame(session=TWO, count=100), [range(100)], 0.0)
    stage.on_step_done([None], took_s=0.1)
    stage.on_forward(BEFORE, frame(Phase.DECODE, ONE), ["d"], 0.0)
    stage.on_step_done([None], took_s=0.02)
    return stage


def test_a_chunk_beside_decoding_runs_in_parts_between_which_decode_has_its_turn():
    stage = decoding_machine()
    chunk = frame(session=TWO, position=100, count=50, sample=True)
    (first,) = steps(stage.on_forward(BEFORE, chunk, [range(50)], 0.0))
    stage.on_forward(BEFORE, frame(Phase.DECODE, ONE, position=1), ["d"], 0.0)
    ran, order = [], []
    step = first
    while step is not None:
        order.append(step.phase)
        if step.phase is Phase.PREFILL:
            (row,) = step.rows
            ran.append((row.position, row.count, row.skip, row.wanted))
        effects = stage.on_step_done([None], took_s=0.02)
        sent = [e.message for e in effects if isinstance(e, SendRows)]
        assert [m.counts for m in sent] == [tuple(row.count for row in step.rows)]
        step = next(iter(steps(effects)), None)
    assert order[:2] == [Phase.PREFILL, Phase.DECODE]
    assert ran == [(100, 20, 0, False), (120, 20, 20, False), (140, 10, 40, True)]
    assert stage.waiting_positions == 0


def test_without_decoding_a_chunk_runs_whole():
    stage = machine(kv=10_000, prefill_tokens=256)
    stage.on_open(ENTRY, opening(TWO, kv_tokens=500, last=LastStage(Sampling())), 0.0)
    (step,) = steps(stage.on_forward(BEFORE, frame(session=TWO, count=200), ["p"], 0.0))
    assert step.rows[0].count == 200


@pytest.mark.parametrize(
    ("decoding", "waiting", "positions"), [(8, 1, 50), (8, 8, 50), (8, 24, 150), (1, 31, 256)]
)
def test_chunks_take_longer_where_more_sessions_wait_than_decode(decoding, waiting, positions):
    pace = PrefillPace(256)
    pace.ran(Phase.DECODE, decoding, 0.05)
    pace.ran(Phase.PREFILL, 100, 0.1)
    assert pace.positions(decoding=decoding, waiting=waiting) == pytest.approx(positions, abs=1)


def test_every_open_session_without_a_token_counts_as_waiting():
    stage = decoding_machine()
    for number in range(3):
        stage.on_open(ENTRY, opening(SessionId(bytes([9, number]) * 8), kv_tokens=100), 0.0)
    chunk = frame(session=TWO, position=100, count=100)
    (step,) = steps(stage.on_forward(BEFORE, chunk, [range(100)], 0.0))
    assert step.rows[0].count == 80  # four of them wait, one decodes at 20 ms a step


def test_a_small_chunk_is_filled_up_with_a_part_whose_rest_goes_first():
    sessions = [SessionId(bytes([number]) * 16) for number in range(3)]
    inbox: Inbox[str] = Inbox(decode_batch=8, prefill_tokens=48, fills=True)
    for session in sessions:
        inbox.put_prefill([StepRow(opening(session), 0, 30, True, "p")])

    def taken():
        _, rows = inbox.take()
        return [(row.session, row.position, row.count, row.wanted) for row in rows]

    assert taken() == [(sessions[0], 0, 30, True), (sessions[1], 0, 18, False)]
    assert taken() == [(sessions[1], 18, 12, True), (sessions[2], 0, 30, True)]
    assert inbox.positions == 0
    assert inbox.take() is None


def test_no_chunk_is_filled_up_with_next_to_nothing():
    inbox: Inbox[str] = Inbox(decode_batch=8, prefill_tokens=40, fills=True)
    for session in (ONE, TWO):
        inbox.put_prefill([StepRow(opening(session), 0, 30, True, "p")])
    assert [len(inbox.take()[1]) for _ in range(2)] == [1, 1]
