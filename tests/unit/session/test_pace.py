"""Chunks beside decoding take about as long as a decode step, on whatever device."""

import pytest

from helix_p2p.session.effects import SendRows
from helix_p2p.session.messages import LastStage, Phase, Sampling
from helix_p2p.session.pace import LEAST, PrefillPace
from tests.unit.session.test_stage import BEFORE, ENTRY, ONE, TWO, frame, machine, opening, steps


@pytest.mark.parametrize(
    ("decode_s", "position_s", "positions"),
    [(0.02, 0.0001, 200), (0.02, 0.000001, 256), (0.01, 0.01, LEAST), (0.05, 0.001, 50)],
)
def test_a_chunk_takes_no_longer_than_a_decode_step(decode_s, position_s, positions):
    pace = PrefillPace(256)
    pace.ran(Phase.DECODE, 8, decode_s)
    pace.ran(Phase.PREFILL, 100, 100 * position_s)
    assert pace.positions(decoding=True) == pytest.approx(positions, abs=1)
    assert pace.positions(decoding=False) == 256


def test_one_odd_step_changes_little():
    pace = PrefillPace(256)
    for _ in range(20):
        pace.ran(Phase.DECODE, 8, 0.02)
        pace.ran(Phase.PREFILL, 100, 0.02)
    pace.ran(Phase.PREFILL, 100, 0.04)
    assert 70 < pace.positions(decoding=True) < 100


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
