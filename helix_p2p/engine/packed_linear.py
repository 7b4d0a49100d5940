"""A float32 matrix product on the CPU with the weight laid out as oneDNN wants it.

The head is by far the widest product of a model, and torch's usual one (MKL) is poor at a few rows:
49152 × 576 takes 8.5, 19.6, 30.9 and 31.1 ms for 1, 4, 8 and 32 rows on one core; oneDNN over its
own blocked layout takes 8.7, 9.7, 11.3 and 19.4 ms. The operators are those that torch's compiler
uses; where they are missing the plain product stays. Layers keep the plain layout: there one row,
which is a single stream, would get 1.3 times slower. Always: the packed weight replaces the plain
one, it does not stand beside it.
"""

from typing import Any

import torch
from torch import nn

TYPICAL_ROWS = 8
"""oneDNN chooses the layout for this many."""


class PackedLinear(nn.Module):
    """Computes what the `nn.Linear` computed that it was made from."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.weight_bytes = weight.nbytes
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)  # noqa: SLF001
        self._bias = None if linear.bias is None else linear.bias.detach().clone()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`[..., in]` to `[..., out]`."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            rows, self._packed, self._bias, "none", [], ""
        )
        return out


def pack(linear: nn.Module) -> nn.Module:
    """The packed form of a linear layer where that is possible, else the layer itself."""
    if not isinstance(linear, nn.Linear) or type(linear) is not nn.Linear:
        return linear
    if linear.weight.device.type != "cpu" or linear.weight.dtype != torch.float32:
        return linear
    onednn: Any = torch.backends.mkldnn  # which is untyped
    if not (onednn.is_available() and onednn.enabled):
        return linear
    try:
        packed = PackedLinear(linear)
        with torch.inference_mode():
            packed(torch.zeros(1, linear.in_features))
    except (AttributeError, RuntimeError):
        return linear
    return packed
