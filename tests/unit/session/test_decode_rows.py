import pytest

from helix_p2p.session.decode_rows import DecodeRows, batches_of, merged
from helix_p2p.session.effects import StepRow
from helix_p2p.session.inbox import Inbox
from helix_p2p.session.messages import Open, Phase
from helix_p2p.session.open_sessions import StageSessions
from helix_p2p.types import LayerRange, PeerId, SessionId

ENTRY, BEFORE, AFTER, OTHER = (PeerId(p) for p in ("entry", "before", "after", "other"))


def opened(number, to=AFTER, start=2):
    layers = LayerRange(start, 6)
    name = SessionId(bytes([number]) * 16)
    return Open(name, 1, 1, layers, ENTRY, BEFORE, to, 300)


def batch(*opens, position=5):
    sessions = StageSessions()
    for open_ in opens:
        sessions.add(open_, 0.0, 0)
    rows = [StepRow(open_, position, 1, True, str(i)) for i, open_ in enumerate(opens)]
    (columns,) = batches_of([sessions.all[o.session] for o in opens], rows)
    return columns, rows


def test_columns_give_the_rows_that_they_were_made_of():
    columns, rows = batch(opened(1), opened(2), opened(3))
    assert list(columns) == [columns[0], columns[1], columns[2]] == rows
    assert list(columns[1:]) == rows[1:]
    assert list(columns.pick((2, 0))) == [rows[2], rows[0]]


def test_part_of_a_batch_knows_its_own_ways_only():
    columns, _ = batch(opened(1), opened(2, to=OTHER), opened(3))
    assert {way.next for way in columns.ways} == {AFTER, OTHER}
    assert {way.next for way in columns[2:].ways} == {AFTER}
    assert len(merged([columns, columns.pick((0,))]).ways) == 2


def test_a_session_that_comes_twice_is_in_two_batches():
    one = opened(1)
    sessions = StageSessions()
    sessions.add(one, 0.0, 0)
    rows = [StepRow(one, position, 1, True, "x") for position in (5, 6)]
    found = batches_of([sessions.all[one.session]] * 2, rows)
    assert [list(part) for part in found] == [[rows[0]], [rows[1]]]
    assert batches_of([], []) == []


@pytest.mark.parametrize("most", [2, 3, 64])
def test_every_row_runs_once_in_its_order_whatever_batches_they_waited_in(most):
    first, _ = batch(opened(1), opened(2, start=3), opened(3))
    second, _ = batch(opened(2, start=3), opened(4), position=6)
    inbox: Inbox[str] = Inbox(decode_batch=most, prefill_tokens=256)
    inbox.put_decode(first)
    inbox.put_decode(second)
    assert (inbox.rows, inbox.positions) == (5, 5)
    ran = []
    while (found := inbox.take()) is not None:
        phase, rows = found
        assert phase is Phase.DECODE
        assert isinstance(rows, DecodeRows)
        names = [row.session[0] for row in rows]
        assert len(set(names)) == len(names) <= most
        assert len({row.open.layers for row in rows}) == 1
        ran += [(row.session[0], row.position) for row in rows]
    assert sorted(ran) == [(1, 5), (2, 5), (2, 6), (3, 5), (4, 6)]
    assert ran.index((2, 5)) < ran.index((2, 6))
    assert (inbox.rows, inbox.positions) == (0, 0)


def test_a_session_that_is_over_leaves_the_batches_that_wait():
    columns, _ = batch(opened(1), opened(2), opened(3))
    alone, _ = batch(opened(2), position=6)
    inbox: Inbox[str] = Inbox(decode_batch=64, prefill_tokens=256)
    inbox.put_decode(columns)
    inbox.put_decode(alone)
    inbox.forget(SessionId(bytes([2]) * 16))
    assert (inbox.rows, inbox.positions) == (2, 2)
    found = inbox.take()
    assert found is not None
    assert [row.session[0] for row in found[1]] == [1, 3]
