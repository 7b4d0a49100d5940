import pytest

from helix_p2p.errors import ProtocolError
from helix_p2p.session.messages import Open, Phase
from helix_p2p.session.open_sessions import StageSessions
from helix_p2p.session.stage_session import StageSession, Way
from helix_p2p.types import LayerRange, PeerId, SessionId

ONE = SessionId(b"1" * 16)


def opening(attempt=1):
    entry, before, after = PeerId("entry"), PeerId("before"), PeerId("after")
    return Open(ONE, attempt, 1, LayerRange(2, 6), entry, before, after, 20)


def check(known, phase=Phase.PREFILL, tokens=False, position=4, count=1, waits=False):
    known.check_row(phase, tokens, position, count, prefill_waits=waits)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"position": 5}, "positions from 4 on are missing"),
        ({"count": 17}, "20 positions are reserved"),
        ({"tokens": True}, "a first stage takes tokens"),
        ({"phase": Phase.DECODE, "waits": True}, "before its prefill was done"),
    ],
)
def test_row_that_no_honest_peer_sends_is_refused(row, said):
    known = StageSession(opening(), Way(PeerId("before"), (2, 6), PeerId("after")), 0.0, False)
    known.begin_at(4)
    with pytest.raises(ProtocolError, match=said):
        check(known, **row)
    check(known, count=16)


def test_prefill_does_not_come_back_after_decode():
    known = StageSession(opening(), Way(PeerId("before"), (2, 6), PeerId("after")), 0.0, False)
    known.begin_at(4)
    check(known, Phase.DECODE)
    with pytest.raises(ProtocolError, match="after a decode step"):
        check(known, Phase.PREFILL)


def test_who_is_open_and_under_which_attempt_is_told_by_the_count_of_changes():
    sessions = StageSessions()
    seen = [sessions.changes]
    sessions.add(opening(1), 0.0, 0)
    seen.append(sessions.changes)
    sessions.add(opening(2), 0.0, 0)
    assert (sessions.is_current(opening(1)), sessions.is_current(opening(2))) == (False, True)
    seen.append(sessions.changes)
    sessions.remove(ONE)
    seen.append(sessions.changes)
    assert not sessions.is_current(opening(2))
    sessions.remove(ONE)
    assert len(set(seen)) == len(seen)
    assert sessions.changes == seen[-1]
