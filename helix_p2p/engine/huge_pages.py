"""Weights on the CPU in huge pages, where the system has them.

A decode step reads every weight once, far more than the address cache of a core covers in pages of
4 KiB (docs/benchmarks.md has what pages of 2 MiB are worth). Weights come to lie where loading put
them; afterwards Linux is asked to move them, which changes no address and no value. Always: only
advice, so whatever refuses it (older kernels, other systems) goes on as before.
"""

import ctypes
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from torch import nn

HUGE_BYTES = 2 * 1024 * 1024
NEIGHBOURS_BYTES = 8192
"""Between allocations of their own pages lie malloc's header and what rounds up to a page."""
AT_ONCE_S = 2.0
"""Of moving while a load waits, about 600 MB; the kernel's own thread moves the rest, slowly."""
_HUGEPAGE, _COLLAPSE = 14, 25  # linux/mman.h


def move_to_huge_pages(
    modules: Iterable[nn.Module], clock: Callable[[], float] = time.monotonic
) -> None:
    """Ask for it, for all parameters on the CPU; at once as far as time allows."""
    if not sys.platform.startswith("linux"):
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    places = {
        (parameter.data_ptr(), parameter.nbytes)
        for module in modules
        for parameter in module.parameters()
        if parameter.device.type == "cpu" and parameter.is_contiguous()
    }
    until_s = clock() + AT_ONCE_S
    for begin in list(huge_pages_within(places)):
        if madvise(begin, HUGE_BYTES, _HUGEPAGE) == 0 and clock() < until_s:
            madvise(begin, HUGE_BYTES, _COLLAPSE)


def huge_pages_within(places: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Where huge pages lie that (address, bytes) cover, small gaps included."""
    begin = end = 0
    for address, size_bytes in [*sorted(places), (sys.maxsize, 0)]:
        if address > end + NEIGHBOURS_BYTES:
            yield from range(-(-begin // HUGE_BYTES) * HUGE_BYTES, end - HUGE_BYTES + 1, HUGE_BYTES)
            begin = address
        end = max(end, address + size_bytes)
