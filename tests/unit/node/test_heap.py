"""What was freed goes back to the machine, also between things that stay."""

import asyncio

import psutil
import pytest

from helix_p2p.engine import memory
from helix_p2p.node import heap

PIECE_BYTES = 20_000
PIECES = 4_000


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(memory._malloc_trim() is None, reason="this C library cannot be asked")
async def test_freed_memory_between_things_that_stay_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = [bytes([n % 256]) * PIECE_BYTES for n in range(PIECES)]
    stays = pieces[::50]
    del pieces
    before = resident_bytes()
    monkeypatch.setattr(heap, "TRIM_EVERY_S", 0.01)
    keeping = asyncio.create_task(heap.keep_small())
    given = 0
    for _ in range(1000):
        await asyncio.sleep(0.01)
        given = before - resident_bytes()
        if given > PIECE_BYTES * PIECES / 2:
            break
    keeping.cancel()
    assert given > PIECE_BYTES * PIECES / 2
    assert stays == [bytes([n % 256]) * PIECE_BYTES for n in range(0, PIECES, 50)]
