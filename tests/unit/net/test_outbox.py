"""The outbox: decode before prefill, order within a lane, bounds."""

import pytest

from helix_p2p.errors import Busy
from helix_p2p.net.outbox import PACK_BYTES, URGENT_IN_A_ROW, Outbox


def _outbox(frames: int = 1000, size: int = 10_000_000) -> Outbox:
    return Outbox(limit_frames=frames, limit_bytes=size)


def test_urgent_frames_go_first_packed_and_in_order() -> None:
    box = _outbox()
    box.put((b"bulk1", b"p"), urgent=False)
    box.put((b"bulk2",), urgent=False)
    box.put((b"u1", b"x"), urgent=True)
    box.put((b"u2",), urgent=True)
    assert box.take() == [b"u1", b"x", b"u2"]
    assert box.take() == [b"bulk1", b"p"]
    box.put((b"u3",), urgent=True)
    assert box.take() == [b"u3"]
    assert box.take() == [b"bulk2"]
    assert box.take() == []
    assert (len(box), box.waiting_bytes) == (0, 0)


def test_a_pack_is_bounded() -> None:
    box = _outbox()
    for _ in range(3):
        box.put((bytes(PACK_BYTES // 2),), urgent=True)
    assert [len(box.take()) for _ in range(2)] == [2, 1]
    box.put((bytes(3 * PACK_BYTES),), urgent=True)
    assert len(box.take()) == 1


def test_urgent_frames_do_not_starve_the_others() -> None:
    box = _outbox()
    box.put((b"bulk",), urgent=False)
    taken = []
    for _ in range(2 * URGENT_IN_A_ROW):
        box.put((b"u",), urgent=True)
        taken.append(box.take())
    assert taken.index([b"bulk"]) == URGENT_IN_A_ROW


def test_bounds_hold_and_a_single_large_frame_passes() -> None:
    box = _outbox(frames=2, size=100)
    box.put((memoryview(bytes(1000)),), urgent=False)
    with pytest.raises(Busy):
        box.put((b"x",), urgent=True)
    box.take()
    box.put((b"x",), urgent=True)
    box.put((b"y",), urgent=False)
    with pytest.raises(Busy):
        box.put((b"z",), urgent=True)
