import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_p2p.errors import Busy
from helix_p2p.routing.admission import KvLedger
from helix_p2p.routing.masks import Masks
from helix_p2p.types import PeerId, SessionId

ENTRY = PeerId("entry")
sessions = st.sampled_from([SessionId(bytes([i]) * 16) for i in range(5)])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), sessions, st.integers(0, 60)),
        st.tuples(st.just("release"), sessions, st.just(0)),
        st.tuples(st.just("resize"), sessions, st.integers(0, 150)),
    ),
    max_size=60,
)


@given(steps)
def test_ledger_agrees_with_a_plain_sum_and_admits_only_what_fits(actions):
    ledger, model, capacity = KvLedger(100), {}, 100
    for action, session, amount in actions:
        if action == "reserve":
            fits = sum(v for s, v in model.items() if s != session) + amount <= capacity
            try:
                ledger.reserve(session, ENTRY, amount, expires_s=1.0)
                assert fits or amount <= model.get(session, 0)
                model[session] = amount
            except Busy:
                assert not fits
        elif action == "release":
            ledger.release(session)
            model.pop(session, None)
        else:
            capacity = amount
            ledger.resize(amount)
        assert ledger.used_token_layers == sum(model.values()) >= 0
        assert ledger.used_by.get(ENTRY, 0) == ledger.used_token_layers
        assert set(ledger.reservations) == set(model)


def test_refusal_leaves_what_was_held():
    ledger, one = KvLedger(10), SessionId(b"1" * 16)
    ledger.reserve(one, ENTRY, 8, expires_s=5.0)
    with pytest.raises(Busy):
        ledger.reserve(one, ENTRY, 11, expires_s=9.0)
    assert ledger.reservations[one].token_layers == 8


def test_touch_moves_the_expiry():
    ledger, one = KvLedger(10), SessionId(b"1" * 16)
    ledger.reserve(one, ENTRY, 1, expires_s=5.0)
    ledger.touch(one, 9.0)
    assert ledger.expired(5.0) == ()
    assert ledger.expired(9.0) == (one,)


def test_mask_ends_and_doubles_with_each_failure_until_a_success():
    masks, peer = Masks(shortest_s=1.0, longest_s=8.0), PeerId("p")
    assert masks.fail(peer, 0.0) == 1.0
    assert masks.masked(0.5) == {peer}
    assert masks.masked(1.0) == frozenset()
    assert masks.fail(peer, 1.0) == 3.0
    masks.succeed(peer)
    assert masks.fail(peer, 3.0) == 4.0


def test_masks_of_peers_that_failed_long_ago_are_not_kept():
    masks = Masks(shortest_s=1.0, longest_s=8.0)
    for number in range(100):
        masks.fail(PeerId(str(number)), number * 100.0)
    assert len(masks._masks) == 1
