"""When a way out of a peer counts as full."""

from helix_p2p.session.backpressure import DRAINED_BYTES, FULL_BYTES, Backpressure
from helix_p2p.types import PeerId

A, B = PeerId("a"), PeerId("b")


def test_a_way_is_full_above_the_high_mark_and_free_below_the_low_one():
    pressure, queued = Backpressure(), {A: FULL_BYTES + 1, B: FULL_BYTES}
    assert pressure.fills(A, queued[A])
    assert not pressure.fills(B, queued[B])
    assert pressure.any_full
    queued[A] = DRAINED_BYTES
    assert pressure.drained(queued.__getitem__) == []
    queued[A] = DRAINED_BYTES - 1
    assert pressure.drained(queued.__getitem__) == [A]
    assert not pressure.any_full
    assert pressure.drained(queued.__getitem__) == []
