from helix_p2p.session.decode_rows import batches_of
from helix_p2p.session.effects import StepRow
from helix_p2p.session.messages import LastStage, Open, Sampling
from helix_p2p.session.open_sessions import StageSessions
from helix_p2p.session.steps import Steps
from helix_p2p.types import LayerRange, PeerId, SessionId

ENTRY, BEFORE, AFTER = (PeerId(p) for p in ("entry", "before", "after"))
NAMES = [SessionId(bytes([n]) * 16) for n in range(4)]


def opening(session, attempt=1, last=None):
    layers = LayerRange(2, 8 if last else 6)
    return Open(session, attempt, 1, layers, ENTRY, BEFORE, None if last else AFTER, 300, last)


def stage(*opens):
    sessions = StageSessions()
    for open_ in opens:
        sessions.add(open_, 0.0, 0)
    return sessions, Steps(sessions, decode_batch=64, prefill_tokens=256)


def rows(*opens, position=0, count=1):
    return [StepRow(open_, position, count, True, "payload") for open_ in opens]


def put_decode(sessions, steps, rows):
    members = [sessions.all[row.session] for row in rows]
    for batch in batches_of(members, rows):
        steps.inbox.put_decode(batch)


def names(steps):
    return [[row.session for row in step.rows] for step in steps]


def test_nothing_starts_while_a_step_is_out():
    one, two = (opening(name) for name in NAMES[:2])
    sessions, steps = stage(one, two)
    put_decode(sessions, steps, rows(one))
    assert names(steps.next()) == [[NAMES[0]]]
    put_decode(sessions, steps, rows(two))
    assert steps.next() == []
    steps.done(None)
    assert names(steps.next()) == [[NAMES[1]]]


def test_a_failed_step_is_halved_until_the_row_at_fault_is_alone_before_anything_new_runs():
    opens = [opening(name) for name in NAMES]
    sessions, steps = stage(*opens)
    put_decode(sessions, steps, rows(*opens[:3]))
    (step,) = steps.next()
    put_decode(sessions, steps, rows(opens[3]))
    ran, refused = [], []
    while step is not None:
        if step.rows[0].session == NAMES[1] or len(step.rows) > 1:
            row = steps.failed()
            refused += [] if row is None else [row.session]
        else:
            ran += [row.session for row in steps.done(None)[0].rows]
        step = next(iter(steps.next()), None)
    assert (ran, refused) == ([NAMES[0], NAMES[2], NAMES[3]], [NAMES[1]])


def test_a_session_that_ended_is_not_repeated():
    one, two = (opening(name) for name in NAMES[:2])
    sessions, steps = stage(one, two)
    put_decode(sessions, steps, rows(one, two))
    steps.next()
    assert steps.failed() is None
    sessions.remove(NAMES[0])
    assert names(steps.next()) == [[NAMES[1]]]


def test_a_step_says_whether_its_sessions_are_as_they_were():
    one, two = (opening(name) for name in NAMES[:2])
    sessions, steps = stage(one)
    put_decode(sessions, steps, rows(one))
    steps.next()
    assert steps.done(None)[1]
    put_decode(sessions, steps, rows(one, position=1))
    steps.next()
    sessions.add(two, 0.0, 0)
    assert not steps.done(None)[1]


def test_rows_under_way_are_not_written_wherever_they_are():
    one = opening(NAMES[0])
    _, steps = stage(one)
    assert steps.first_position(one) is None
    steps.inbox.put_prefill(rows(one, position=0, count=300))
    assert steps.first_position(one) == 0
    steps.next()
    assert steps.first_position(one) == 0
    steps.done(None)
    assert steps.first_position(one) == 256
    steps.next()
    steps.done(None)
    assert steps.first_position(one) is None


def test_chunks_shrink_beside_decoding_to_what_a_decode_step_takes():
    one, two = (opening(name) for name in NAMES[:2])
    sessions, steps = stage(one, two)
    steps.inbox.put_prefill(rows(two, count=256))
    (step,) = steps.next()
    assert step.rows[0].count == 256
    steps.done(0.256)
    put_decode(sessions, steps, rows(one))
    sessions.decoding = 1
    steps.next()
    steps.done(0.032)
    steps.inbox.put_prefill(rows(two, position=256, count=44))
    (step,) = steps.next()
    assert step.rows[0].count == 32


def test_history_goes_with_the_rows_that_need_it():
    said = opening(NAMES[0], last=LastStage(Sampling(repetition_penalty=1.5), (7, 8)))
    silent = opening(NAMES[1], last=LastStage(Sampling()))
    sessions, steps = stage(said, silent)
    sessions.sampled(NAMES[0], 9)
    sessions.sampled(NAMES[1], 9)
    put_decode(sessions, steps, rows(said, silent))
    (step,) = steps.next()
    assert [row.history for row in step.rows] == [(7, 8, 9), ()]
