"""The head's product equals torch's own, whatever the rows, on the same weight."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from helix_p2p.engine.wide_linear import WideLinear, widened


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 33])
@pytest.mark.parametrize("bias", [False, True])
def test_a_wide_product_is_the_plain_one(rows: int, *, bias: bool) -> None:
    torch.manual_seed(rows)
    linear = nn.Linear(48, 1000, bias=bias).requires_grad_(requires_grad=False)
    given = torch.randn(rows, 48)
    wide = widened(linear)
    assert isinstance(wide, WideLinear)
    assert wide.weight is linear.weight
    with torch.inference_mode():
        torch.testing.assert_close(wide(given), F.linear(given, linear.weight, linear.bias))
        torch.testing.assert_close(wide(given[None]), wide(given)[None])


def test_what_is_not_a_plain_float32_layer_stays() -> None:
    half = nn.Linear(8, 8, dtype=torch.bfloat16)
    assert widened(half) is half
    norm = nn.LayerNorm(8)
    assert widened(norm) is norm
