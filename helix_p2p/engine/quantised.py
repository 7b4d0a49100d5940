"""Weights in fewer bits: int8 by our own product, nf4 by bitsandbytes.

Only the matrices inside layers are quantised; norms, biases, routers, embedding and head stay in
the compute dtype, as is usual (Dettmers et al., "LLM.int8()", 2022, and "QLoRA", 2023). int8 keeps
one scale per output row; the product turns a strip of rows at a time back into floats, small enough
for the processor's cache. Always: a quantised layer no longer holds its original weights; what the
device cannot compute is refused here, before anything is loaded.

Why not torchao for int8: see docs/adr/0011.
"""

import importlib
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from transformers.pytorch_utils import Conv1D

from helix_p2p.engine.memory import trim_heap
from helix_p2p.errors import ConfigError, ModelError

CPU_STRIP_ELEMENTS = 2**18
"""1 MiB in float32: half of a core's second-level cache. 5632 × 2048 at one row takes 2.4 ms so and
19 ms with the whole matrix turned back at once; in float32 it takes 1.9 ms."""
GPU_STRIP_ELEMENTS = 2**24
"""Bounds the temporary to 32 MiB in bfloat16."""
CPU_NF4_STRIP_ELEMENTS = 2**14
"""To quantise in: some 20 bytes each for a while. A whole number of blocks. Shorter strips take
longer (8192 × 10 %), longer ones no less."""
PACKED_PRODUCT_ROWS = 4
"""torch's fused product for bfloat16 on CPUs: 0.6 ms at one row where plain bfloat16 takes 1.5 ms,
slower from eight rows on."""
KEPT = ("gate", "router")
"""Modules of mixtures that choose experts: tiny, and every error there changes the choice."""
MOST_UNQUANTISED = 0.5
NF4_BLOCK = 64
NF4_STATE_BLOCK = 256


class Quantisation(StrEnum):
    """How a layer's matrices are held."""

    NONE = "none"
    INT8 = "int8"
    NF4 = "nf4"


class Int8Linear(nn.Module):
    """Computes nearly what the linear layer computed that it was made from.

    Args:
        weight: `[out, in]`, any float dtype.
        bias: `[out]` or None.
        dtype: What is computed in; None for the weight's.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        rows = weight.detach()
        scale = torch.empty(len(rows), device=rows.device)
        packed = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)
        strip = _strip_rows(rows)
        for first in range(0, len(rows), strip):
            part = rows[first : first + strip].float()
            largest = part.abs().amax(1).clamp_(min=torch.finfo(torch.float16).tiny)
            scale[first : first + strip] = largest / 127
            part = part / scale[first : first + strip, None]
            packed[first : first + strip] = part.round_().to(torch.int8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.scale = nn.Parameter(scale.to(dtype or weight.dtype), requires_grad=False)
        kept = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.bias: nn.Parameter | None
        self.register_parameter("bias", kept)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """`[..., in]` to `[..., out]`."""
        rows = given.reshape(-1, self.in_features)
        out = self._product(rows)
        if self.bias is not None:
            out += self.bias
        return out.view(*given.shape[:-1], self.out_features)

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        fused = rows.device.type == "cpu" and rows.dtype == torch.bfloat16
        if fused and len(rows) <= PACKED_PRODUCT_ROWS:
            product: torch.Tensor = torch._weight_int8pack_mm(rows, self.weight, self.scale)  # noqa: SLF001
            return product
        strip = _strip_rows(self.weight)
        if strip >= self.out_features:
            return F.linear(rows, self.weight.to(rows.dtype)).mul_(self.scale)
        out = rows.new_empty(len(rows), self.out_features)
        floats = rows.new_empty(strip, self.in_features)
        for first in range(0, self.out_features, strip):
            part = floats[: min(strip, self.out_features - first)]
            part.copy_(self.weight[first : first + strip])
            torch.mm(rows, part.t(), out=out[:, first : first + strip])
        return out.mul_(self.scale)


def _strip_rows(matrix: torch.Tensor) -> int:
    elements = CPU_STRIP_ELEMENTS if matrix.device.type == "cpu" else GPU_STRIP_ELEMENTS
    return max(1, elements // matrix.shape[1])


def quantise(
    layer: nn.Module,
    how: Quantisation,
    settle: Callable[[str, nn.Module], None] = lambda path, matrix: None,  # noqa: ARG005
    dtype: torch.dtype | None = None,
) -> None:
    """Replace a layer's matrices, in place and one at a time.

    Args:
        layer: Whose.
        how: By what.
        settle: Given a matrix's path and module just before its turn, brings the weights to the
            device; so just one is ever there whole.
        dtype: To compute in; None for that of the weights. They may come in another one, and no
            whole matrix is ever there in both.
    """
    if how is Quantisation.NONE:
        return
    for path in [path for path, module in layer.named_modules() if _is_matrix(path, module)]:
        matrix = layer.get_submodule(path)
        settle(path, matrix)
        layer.set_submodule(path, _quantised(matrix, how, dtype))
        trim_heap()  # half a millisecond; with one a layer, slices of 30 MB took up to 10 MB more


def quantised_bytes(layer: nn.Module, how: Quantisation, dtype: torch.dtype) -> int:
    """What a layer will weigh; it may lie on the meta device.

    Raises:
        ModelError: Most of it is not in matrices that can be quantised.
    """
    whole: int = sum(parameter.numel() for parameter in layer.parameters())
    if how is Quantisation.NONE:
        return whole * dtype.itemsize
    matrices: list[Any] = [m for path, m in layer.named_modules() if _is_matrix(path, m)]
    inside: int = sum(module.weight.numel() for module in matrices)
    if whole - inside > MOST_UNQUANTISED * whole:
        raise ModelError(
            f"{how} would leave {(whole - inside) / whole:.0%} of each layer as it is: its experts "
            "are held as one tensor, not as matrices",
            hint="serve it with --quantization none",
        )
    size: int = (whole - inside) * dtype.itemsize
    for module in matrices:
        if how is Quantisation.INT8:
            size += module.weight.numel() + _out_features(module) * dtype.itemsize
        else:
            size += _nf4_bytes(module.weight.numel())
    return size


def resident_bytes(module: nn.Module) -> int:
    """What a module holds beside its parameters: nf4 keeps its scales apart."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    if state is None:
        return 0
    tensors = [state.absmax, state.code, state.offset]
    if state.state2 is not None:
        tensors += [state.state2.absmax, state.state2.code]
    return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))


def check_computable(device: str, dtype: torch.dtype, how: Quantisation) -> None:
    """Compute one small product as layers will.

    Raises:
        ConfigError: The device or the installation cannot do it.
    """
    name = str(dtype).removeprefix("torch.")
    try:
        with torch.inference_mode():
            linear = nn.Linear(64, 64, dtype=torch.float32)
            given = torch.linspace(-1.0, 1.0, 128).view(2, 64)
            wanted = linear(given)
            probe = nn.ModuleDict({"matrix": linear.to(device, dtype)})
            if dtype == torch.bfloat16 and device.startswith("cuda") and not _has_bfloat16(device):
                raise ConfigError(
                    f"{torch.cuda.get_device_name(device)} does not compute in bfloat16",
                    hint="take --dtype float16",
                )
            quantise(probe, how)
            got = probe["matrix"](given.to(device, dtype)).float().cpu()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{device} cannot compute in {name}"
            + ("" if how is Quantisation.NONE else f" with {how} weights")
            + f": {first[:160]}",
            hint="choose another --dtype or --quantization",
        ) from error
    if not float((got - wanted).norm()) < 0.2 * float(wanted.norm()):
        raise ConfigError(
            f"{device} computes wrong numbers in {name} ({how})",
            hint="choose another --dtype or --quantization, or update torch and the driver",
        )


def _has_bfloat16(device: str) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _is_matrix(path: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D) and path.rpartition(".")[2] not in KEPT


def _out_features(module: Any) -> int:
    rows, columns = module.weight.shape
    return int(columns if isinstance(module, Conv1D) else rows)


def _quantised(module: Any, how: Quantisation, dtype: torch.dtype | None) -> nn.Module:
    weight = module.weight.detach()
    if isinstance(module, Conv1D):
        weight = weight.t().contiguous()
    if how is Quantisation.INT8:
        return Int8Linear(weight, module.bias, dtype)
    return _nf4(weight, module.bias, dtype or weight.dtype)


def _nf4(weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> nn.Module:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels nobody needs
    try:
        library: Any = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ConfigError(
            "nf4 weights need bitsandbytes", hint="pip install 'helix-p2p[nf4]'"
        ) from error
    rows, columns = weight.shape
    with torch.device("meta"):
        module: nn.Module = library.nn.Linear4bit(
            columns, rows, bias=False, compute_dtype=dtype, quant_type="nf4"
        )
    packed, state = _nf4_packed(library.functional, weight, dtype)
    module.weight = library.nn.Params4bit(
        packed,
        requires_grad=False,
        quant_state=state,
        quant_type="nf4",
        blocksize=NF4_BLOCK,
        compress_statistics=True,
        bnb_quantized=True,
    )
    kept = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    module.register_parameter("bias", kept)
    return module


def _nf4_packed(
    functional: Any, weight: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, Any]:
    """What bitsandbytes' `quantize_4bit` gives, but a strip at a time.

    On a CPU its own way through a whole matrix takes some 20 bytes for each weight.
    """
    flat = weight.contiguous().view(-1)
    strip = CPU_NF4_STRIP_ELEMENTS if weight.device.type == "cpu" else GPU_STRIP_ELEMENTS
    packed = torch.empty(-(-len(flat) // 2), 1, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(-(-len(flat) // NF4_BLOCK), device=weight.device)
    for first in range(0, len(flat), strip):
        part, state = functional.quantize_4bit(
            flat[first : first + strip].to(dtype), blocksize=NF4_BLOCK, quant_type="nf4"
        )
        packed[first // 2 : first // 2 + len(part)] = part
        scales[first // NF4_BLOCK : first // NF4_BLOCK + len(state.absmax)] = state.absmax
    offset = scales.mean()
    codes, outer = functional.quantize_blockwise(scales - offset, blocksize=NF4_STATE_BLOCK)
    return packed, functional.QuantState(
        absmax=codes,
        shape=weight.shape,
        dtype=dtype,
        blocksize=NF4_BLOCK,
        code=state.code,
        quant_type="nf4",
        offset=offset,
        state2=outer,
    )


def _nf4_bytes(elements: int) -> int:
    """Half a byte each, a byte of scale per block, a float per 256 of those, two code books."""
    blocks = -(-elements // NF4_BLOCK)
    scales = -(-blocks // NF4_STATE_BLOCK)
    return -(-elements // 2) + blocks + 4 * scales + 4 * (16 + 256) + 4
