"""Fair shares of KV room between entry peers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_p2p.errors import Busy
from helix_p2p.routing.admission import KvLedger
from helix_p2p.routing.shares import FairShares
from helix_p2p.types import PeerId, SessionId

HOG, POOR, THIRD = (PeerId(name) for name in ("hog", "poor", "third"))


def session(number: int) -> SessionId:
    return SessionId(number.to_bytes(16, "big"))


def shares(capacity: int = 100) -> tuple[FairShares, KvLedger]:
    ledger = KvLedger(capacity)
    return FairShares(ledger), ledger


def fill(fair: FairShares, owner: PeerId, count: int, size: int = 10, start: int = 0) -> None:
    for number in range(start, start + count):
        fair.reserve(session(number), owner, size, 0.0, 60.0)


def test_entry_peer_that_is_alone_may_fill_the_stage():
    fair, ledger = shares()
    fill(fair, HOG, 10)
    assert ledger.used_by == {HOG: 100}
    assert fair.to_end(1000.0) is None


def test_room_that_comes_free_goes_to_the_one_that_went_short():
    fair, ledger = shares()
    fill(fair, HOG, 10)
    with pytest.raises(Busy):
        fair.reserve(session(50), POOR, 20, 1.0, 60.0)
    ledger.release(session(0))
    with pytest.raises(Busy):
        fair.reserve(session(51), HOG, 10, 1.1, 60.0)
    ledger.release(session(1))
    fair.reserve(session(50), POOR, 20, 1.2, 60.0)
    for number in (2, 3, 4):
        ledger.release(session(number))
        with pytest.raises(Busy):
            fair.reserve(session(52), HOG, 10, 1.3, 60.0)
    fair.reserve(session(53), POOR, 30, 1.4, 60.0)
    ledger.release(session(5))
    fair.reserve(session(52), HOG, 10, 1.5, 60.0)


def test_newest_session_of_who_holds_most_ends_for_one_that_waits_too_long():
    fair, ledger = shares()
    fill(fair, HOG, 8)
    fill(fair, THIRD, 2, start=8)
    for now_s in range(0, 12, 2):
        with pytest.raises(Busy):
            fair.reserve(session(50), POOR, 20, float(now_s), 60.0)
    assert fair.to_end(9.0) is None
    assert fair.to_end(10.0) == session(7)
    ledger.release(session(7))
    assert fair.to_end(10.1) == session(6)
    ledger.release(session(6))
    assert fair.to_end(10.2) is None, "there is room now"
    fair.reserve(session(50), POOR, 20, 10.5, 60.0)


def test_one_that_no_longer_asks_is_forgotten():
    fair, ledger = shares()
    fill(fair, HOG, 10)
    with pytest.raises(Busy):
        fair.reserve(session(50), POOR, 20, 0.0, 60.0)
    ledger.release(session(0))
    assert fair.to_end(20.0) is None
    fair.reserve(session(51), HOG, 10, 6.0, 60.0)


def test_two_that_want_more_than_a_share_each_do_not_block_each_other_for_ever():
    fair, ledger = shares()
    fill(fair, THIRD, 10)
    for owner in (HOG, POOR):
        with pytest.raises(Busy):
            fair.reserve(session(60), owner, 60, 0.0, 60.0)
    for number in range(10):
        ledger.release(session(number))
    fair.reserve(session(60), HOG, 60, 1.0, 60.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([HOG, POOR, THIRD]),
            st.integers(1, 40),
            st.sampled_from(["open", "end", "tick"]),
        ),
        max_size=80,
    )
)
def test_whatever_comes_the_ledger_holds_and_shares_are_never_ended(actions):
    fair, ledger = shares()
    for number, (owner, size, what) in enumerate(actions):
        now_s = number * 0.7
        if what == "open":
            try:
                fair.reserve(session(number), owner, size, now_s, 1e9)
            except Busy:
                assert session(number) not in ledger.reservations
        elif what == "end" and ledger.reservations:
            ledger.release(next(iter(ledger.reservations)))
        elif (ended := fair.to_end(now_s)) is not None:
            robbed = ledger.reservations[ended].owner
            assert ledger.used_by[robbed] > 100 // 3
            ledger.release(ended)
        assert ledger.used_token_layers <= 100
        assert sum(ledger.used_by.values()) == ledger.used_token_layers
