"""A wide float32 product on the CPU that is good at one row and at many, on one weight.

The head is by far the widest product of a model. torch's usual one (MKL) is the best at one and two
rows, a single stream, and poor beyond; oneDNN takes over there. CPU-ms on one core, 32000 × 512 and
49152 × 576:

    rows                          1            4            8           32
    MKL                        5.3   8.6   10.9  21.7   17.1  34.4   16.9  31.3
    oneDNN, plain weight                    8.6  15.1    9.5         14.3
    oneDNN, its own layout     5.6  10.4    5.9  10.2    6.8  11.9   11.8  20.9

Its own layout would be faster still for many rows, but it is slower for one, it stands beside the
plain weight while it is made (a stage of a few layers and the head would take 1.7 times its size to
load), and a tied embedding could not share it. The operator is one that torch's compiler uses;
where it is missing the plain product stays. Always: the weight stays the parameter that it was.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

FEW_ROWS = 2
"""Up to so many MKL is faster."""


class WideLinear(nn.Module):
    """Computes what the `nn.Linear` computed that it was made from, with the same parameters."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`[..., in]` to `[..., out]`."""
        if rows.numel() <= FEW_ROWS * rows.shape[-1]:
            return F.linear(rows, self.weight, self.bias)
        return _of_many(rows, self.weight, self.bias)


def widened(linear: nn.Module) -> nn.Module:
    """A head with a product for many rows where that is possible, else the layer itself."""
    if type(linear) is not nn.Linear:
        return linear
    if linear.weight.device.type != "cpu" or linear.weight.dtype != torch.float32:
        return linear
    onednn: Any = torch.backends.mkldnn  # which is untyped
    if not (onednn.is_available() and onednn.enabled):
        return linear
    try:
        with torch.inference_mode():
            rows = torch.zeros(FEW_ROWS + 1, linear.in_features)
            _of_many(rows, linear.weight[:1], None if linear.bias is None else linear.bias[:1])
    except (AttributeError, RuntimeError):
        return linear
    return WideLinear(linear)


def _of_many(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
        rows, weight, bias, "none", [], ""
    )
    return out
