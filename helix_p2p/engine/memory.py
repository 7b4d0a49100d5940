"""What running out of memory looks like on each device, and giving cached memory back.

torch raises `OutOfMemoryError` for its GPU allocators only; the CPU's, Apple's and cuBLAS's own
allocations fail with a bare `RuntimeError` that only its text tells apart. glibc keeps what is
freed between things that stay until it is asked for it; other C libraries have no such question.
"""

import ctypes
import gc
from functools import cache
from typing import Any

import torch

_SIGNS = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device, or the host, had no room."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def release_cached(device: torch.device) -> None:
    """Give back what torch keeps for later."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def trim_heap() -> None:
    """Give freed pages of the host's memory back to the system, where that can be asked for."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim
