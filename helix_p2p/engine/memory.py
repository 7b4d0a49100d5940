"""What running out of memory looks like on each device, and giving cached memory back.

torch raises `OutOfMemoryError` for its GPU allocators only; the CPU's, Apple's and cuBLAS's own
allocations fail with a bare `RuntimeError` that only its text tells apart.
"""

import gc

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
