"""Weights move to huge pages where they lie, and stay what they are."""

import ctypes
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from helix_p2p.engine import huge_pages
from helix_p2p.engine.huge_pages import HUGE_BYTES, huge_pages_within, move_to_huge_pages

H = HUGE_BYTES


def system_can_move_pages() -> bool:
    """Linux since 6.1, where huge pages may be asked for."""
    try:
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False
    memory = torch.zeros(2 * H, dtype=torch.uint8)
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    begin = -(-memory.data_ptr() // H) * H
    return "[never]" not in modes and madvise(begin, H, huge_pages._COLLAPSE) == 0


def in_huge_pages_bytes() -> int:
    found = re.search(r"AnonHugePages: +(\d+)", Path("/proc/self/smaps_rollup").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ([], []),
        ([(H, H)], [H]),
        ([(H + 1, H)], []),
        ([(H - 1, H + 1)], [H]),
        ([(H, 4 * H - 1)], [H, 2 * H, 3 * H]),
        ([(H + H // 2, H // 2), (H, H // 2 - 4096)], [H]),
        ([(H, H // 2), (H + H // 2 + 64 * 1024, H // 2)], []),
        ([(5 * H, H), (H, H)], [H, 5 * H]),
    ],
)
def test_a_huge_page_lies_within_one_place_or_neighbours(
    places: list[tuple[int, int]], found: list[int]
) -> None:
    assert list(huge_pages_within(places)) == found


@pytest.mark.skipif(not system_can_move_pages(), reason="this system moves nothing to huge pages")
def test_weights_lie_in_huge_pages_at_their_addresses_with_their_values() -> None:
    layer = nn.Linear(2048, 4096, bias=False)
    before, at = layer.weight.detach().clone(), layer.weight.data_ptr()
    huge = in_huge_pages_bytes()
    move_to_huge_pages([layer])
    assert in_huge_pages_bytes() - huge >= layer.weight.nbytes - 2 * H
    assert layer.weight.data_ptr() == at
    assert torch.equal(layer.weight, before)


@pytest.mark.skipif(not system_can_move_pages(), reason="this system moves nothing to huge pages")
def test_what_time_does_not_allow_is_left_to_the_system() -> None:
    layer = nn.Linear(2048, 4096, bias=False)
    huge, times = in_huge_pages_bytes(), iter([0.0, 0.0, 0.0] + [3.0] * 99)
    move_to_huge_pages([layer], lambda: next(times))
    assert in_huge_pages_bytes() - huge == 2 * H


def test_elsewhere_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    move_to_huge_pages([nn.Linear(2048, 1024)])
