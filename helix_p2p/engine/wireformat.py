"""Activations to bytes and back without copying.

A frame's payload is the tensor's own memory, row-major, in the host's little-endian order; its
dtype and shape travel in the message. Always: bytes from elsewhere are checked for size before they
become a tensor, and the numbers for being finite, so that one sender's poison is its own fault and
never reaches a batch that others share.
"""

import sys
from typing import Any

import torch

from helix_p2p.errors import PoisonedActivation

if sys.byteorder != "little":  # every platform that torch supports
    raise ImportError("helix-p2p's wire format needs a little-endian machine")

DTYPES: dict[str, torch.dtype] = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
}
"""Names on the wire, as in `session.messages.Forward.dtype`."""

LARGEST = 1e9
"""Residual streams reach 1e4, in some models 1e6 (Sun et al., "Massive activations in large
language models", 2024). Much larger numbers are finite here and overflow in the next layer's sums,
where they would be its peer's fault."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """The wire's name of a dtype.

    Raises:
        ValueError: Activations never have this dtype.
    """
    try:
        return _NAMES[dtype]
    except KeyError:
        raise ValueError(f"activations of {dtype} do not travel") from None


def to_bytes(hidden: torch.Tensor) -> memoryview:
    """A tensor's memory as bytes; the view keeps the tensor alive.

    Args:
        hidden: `[tokens, d_model]`, any float dtype; copied only if it is not contiguous or not on
            the CPU.
    """
    flat = hidden.detach().cpu().contiguous().view(-1)
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def from_bytes(
    data: bytes | bytearray | memoryview, dtype: str, tokens: int, d_model: int
) -> torch.Tensor:
    """The tensor `[tokens, d_model]` over `data`'s own memory; treat it as read-only.

    Raises:
        PoisonedActivation: Unknown dtype, bytes that are not tokens × d_model of it, or numbers
            that are not finite.
    """
    kind = DTYPES.get(dtype)
    if kind is None:
        raise PoisonedActivation(f"activations of unknown dtype {dtype!r}")
    if tokens < 1 or d_model < 1 or len(data) != tokens * d_model * kind.itemsize:
        raise PoisonedActivation(
            f"{len(data)} bytes of activations, not {tokens} × {d_model} in {dtype}"
        )
    if not isinstance(data, bytearray) and memoryview(data).readonly:
        data = bytearray(data)  # torch warns of memory that it must not write
    hidden = torch.frombuffer(data, dtype=kind).view(tokens, d_model)
    check_finite(hidden)
    return hidden


def check_finite(hidden: torch.Tensor) -> None:
    """Refuse NaN, infinity and absurd sizes, in one pass: NaN passes no comparison.

    Raises:
        PoisonedActivation: Some number is not finite, or beyond `LARGEST`.
    """
    least, most = torch.aminmax(hidden)
    if not (float(least) >= -LARGEST and float(most) <= LARGEST):
        raise PoisonedActivation(f"activations that are not finite, or beyond {LARGEST:g}")
