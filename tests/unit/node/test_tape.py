"""What a stage keeps for checks: the rows as they ran, for as long as somebody may ask."""

from random import Random

import pytest
import torch

from helix_p2p.engine.contract import StepResult
from helix_p2p.node.tape import KEPT_S, POSITIONS, Tape
from helix_p2p.session.effects import RunStep, StepRow
from helix_p2p.session.messages import Phase
from helix_p2p.types import SessionId
from tests.unit.session.test_stage import ENTRY, ONE, TWO, opening

WIDTH = 8


def ran(*rows):
    """A step of these rows, whose output is its input plus one."""
    inputs = torch.cat([row.payload[row.skip : row.skip + row.count] for row in rows])
    step = RunStep(Phase.PREFILL, rows[0].open.layers, tuple(rows), takes_tokens=False)
    return step, StepResult(inputs + 1)


def kept(tape, session=ONE, *, output=False):
    return tape.read(session, 1, ENTRY, output=output)


def test_a_chunk_that_was_cut_is_kept_as_it_ran():
    tape = Tape()
    hidden = torch.randn(50, WIDTH)
    for first, count in ((0, 20), (20, 20), (40, 10)):
        row = StepRow(opening(ONE), first, count, first == 40, hidden, skip=first)
        tape.keep(*ran(row), now_s=0.0)
    took, gave = kept(tape), kept(tape, output=True)
    assert took.counts == gave.counts == (20, 20, 10)
    assert took.wanted == (False, False, True)
    assert torch.equal(took.hidden, hidden)
    assert torch.equal(gave.hidden, hidden + 1)


@pytest.mark.parametrize("seed", range(3))
def test_chunks_and_tokens_of_several_sessions_are_kept_apart(seed):
    rng = Random(seed)
    tape, sessions = Tape(), (ONE, TWO)
    rows = {session: torch.randn(POSITIONS + 40, WIDTH) for session in sessions}
    filled = dict.fromkeys(sessions, 0)
    while min(filled.values()) < POSITIONS + 20:
        step = []
        for session in sessions:
            first = filled[session]
            count = min(rng.choice((1, 1, 1, 30)), POSITIONS + 40 - first)
            if count:
                part = rows[session][first : first + count]
                step.append(StepRow(opening(session), first, count, True, part))
                filled[session] += count
        tape.keep(*ran(*step), now_s=0.0)
    for session in sessions:
        assert torch.equal(kept(tape, session).hidden, rows[session][:POSITIONS])
    assert tape.size_bytes == 2 * 2 * POSITIONS * WIDTH * 4


def test_a_session_that_is_silent_for_long_is_forgotten():
    tape = Tape()
    for session in (ONE, TWO):
        row = StepRow(opening(session), 0, 4, False, torch.randn(4, WIDTH))
        tape.keep(*ran(row), now_s=0.0)
    row = StepRow(opening(ONE), 4, 1, True, torch.randn(1, WIDTH))
    tape.keep(*ran(row), now_s=30.0)
    tape.tick(KEPT_S + 1)
    assert kept(tape) is not None
    assert kept(tape, TWO) is None
    tape.tick(KEPT_S + 30)
    assert kept(tape) is None
    assert tape.size_bytes == 0


def test_memory_is_bounded_and_who_was_silent_longest_goes_first():
    tape = Tape(limit_bytes=3 * 2 * 16 * WIDTH * 4)
    names = [SessionId(bytes([number]) * 16) for number in range(4)]
    for now_s, name in enumerate([*names[:3], names[0], names[3]]):
        first = 4 * (now_s == 3)
        row = StepRow(opening(name), first, 4, False, torch.randn(4, WIDTH))
        tape.keep(*ran(row), now_s=float(now_s))
    assert [kept(tape, name) is not None for name in names] == [True, False, True, True]
