"""A token's parts add up to its round, and nothing is traced that nobody asked for."""

import pytest

from helix_p2p.client.tracing import lines, summarise
from helix_p2p.node.tracing import MOST_TRACED, Tracer
from helix_p2p.session.effects import RunStep, StepRow
from helix_p2p.session.messages import Forward, Open, Phase, Sampled, TokenTrace, Trace
from helix_p2p.types import LayerRange, PeerId, SessionId

ONE = SessionId(b"1" * 16)


def tracer(clock):
    made = Tracer()
    made._clock = lambda: clock[0]
    return made


def step():
    me = PeerId("me")
    opened = Open(ONE, 1, 1, LayerRange(0, 2), me, me, None, 100)
    return RunStep(Phase.DECODE, LayerRange(0, 2), (StepRow(opened, 5, 1, True, ()),), True)


def forward(trace=None):
    return Forward(Phase.DECODE, (ONE,), (1,), (5,), (1,), (True,), trace=trace)


def one_round(first, last, clock, begin_s):
    """Two stages, 1 ms queue, 10 ms compute, 2 ms hand-over each, 0.5 ms on each wire."""
    clock[0] = begin_s
    first.arrived(Trace(ONE))
    message = forward()
    for stage, answer in ((first, forward()), (last, Sampled((ONE,), (1,), (6,), (7,)))):
        if stage is last:
            clock[0] += 0.0005
            stage.arrived(message.trace)
        stage.ran(step(), clock[0] + 0.001, 0.010)
        clock[0] += 0.013
        message = stage.leaving(answer)
        assert not stage.active
    clock[0] += 0.0005
    return first.returned(message.trace)


def test_the_parts_of_a_token_add_up_whatever_the_peers_clocks_say():
    clock = [100.0]
    first, last = tracer(clock), tracer(clock)
    last._clock = lambda: clock[0] + 1234.5  # another machine's
    ran = last.ran
    last.ran = lambda step, start_s, took_s: ran(step, start_s + 1234.5, took_s)
    assert one_round(first, last, clock, 100.0).entry_s is None
    token = one_round(first, last, clock, 100.030)
    assert [s.queue_s for s in token.spans] == pytest.approx([0.001, 0.001])
    assert [s.compute_s for s in token.spans] == pytest.approx([0.010, 0.010])
    assert [s.hand_s for s in token.spans] == pytest.approx([0.002, 0.002])
    assert token.wire_s == pytest.approx(0.001)
    assert token.entry_s == pytest.approx(0.003)
    summary = summarise([(1.0, token), (1.030, token), (1.060, token)])
    assert summary.sum_s == pytest.approx(0.030)
    assert summary.explained == pytest.approx(1.0)
    assert summary.hop_s == pytest.approx((0.001 + 0.004) / 2)
    assert "100.0%" in lines(summary)[-1]


def test_frames_that_nobody_traces_go_on_as_they_are():
    message = forward()
    assert Tracer().leaving(message) is message
    assert Tracer().returned(Trace(ONE)) is None


def test_sessions_that_ended_on_the_way_are_forgotten():
    made = Tracer()
    for number in range(3 * MOST_TRACED):
        made.arrived(Trace(SessionId(number.to_bytes(16, "big"))))
    assert len(made._here) <= MOST_TRACED
    assert len(made._rounds) <= MOST_TRACED


def test_an_answer_of_one_token_has_no_summary():
    assert summarise([(0.0, TokenTrace((), 0.0))]) is None
