"""Loading slices of a model: single layers, and the ends. What runs them is in spans.py.

The model's own class is built without memory, its list of layers cut to the wanted ones and
everything that is not wanted replaced by `Absent`; transformers' `from_pretrained` then fills in
just these tensors, with its own key conversions (fused experts and the like). Layers keep the index
they were built with, so whatever depends on it stays right. Always: a tensor that is missing,
unexpected, of another shape or not finite is a `ModelError` before anything is served; a loaded
slice owns its memory and no longer needs the files.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.utils import logging as _transformers_logging

from helix_p2p.engine.architecture import Absent, Architecture
from helix_p2p.engine.checkpoint import Checkpoint, layer_of, renumber
from helix_p2p.engine.huge_pages import move_to_huge_pages
from helix_p2p.engine.memory import is_out_of_memory, trim_heap
from helix_p2p.engine.merged_layer import merged
from helix_p2p.engine.quantised import Quantisation, quantise, resident_bytes
from helix_p2p.engine.wide_linear import widened
from helix_p2p.errors import ModelError, OutOfMemory

GROUPS = 8
"""Layers are read in so many parts: besides the slice, memory holds one part as it is on disk.
Layers to be quantised are read one by one."""
FLOATS = frozenset((torch.float32, torch.bfloat16, torch.float16))

transformers_logging: Any = _transformers_logging  # which is untyped


@dataclass(frozen=True, slots=True)
class LoadedSlice:
    """Weights in memory.

    Attributes:
        layers: Decoder layers by their index in the whole model.
        shell: The outer model without layers; parts that are not loaded are `Absent`.
        start: Whether the shell has the parts before the layers.
        end: Whether it has the parts after them and the head.
    """

    layers: Mapping[int, nn.Module]
    shell: nn.Module
    start: bool
    end: bool


def load_slice(
    architecture: Architecture,
    checkpoint: Checkpoint,
    indices: Sequence[int],
    *,
    start: bool,
    end: bool,
    dtype: torch.dtype,
    device: torch.device,
    attention: str,
    quantisation: Quantisation = Quantisation.NONE,
) -> LoadedSlice:
    """Read layers and, where wanted, the ends.

    Args:
        architecture: Of the checkpoint.
        checkpoint: Where the tensors lie.
        indices: Decoder layers, ascending.
        start: Also what runs before the layers.
        end: Also what runs after them.
        dtype: To hold the weights in.
        device: To hold them on.
        attention: Name of the attention function.
        quantisation: How the layers' matrices are held.

    Raises:
        ModelError: The checkpoint does not fit its configuration, or holds numbers that are not.
        OutOfMemory: The device refused.
    """
    layers: dict[int, nn.Module] = {}
    plain = quantisation is Quantisation.NONE
    at_once = max(1, len(indices) // GROUPS) if plain else 1
    groups = [indices[first : first + at_once] for first in range(0, len(indices), at_once)]
    if start or end or not plain or not groups:
        groups.insert(0, ())

    def load(group: Sequence[int], *, ends: bool) -> nn.Module:
        wanted = _wanted(architecture, checkpoint, group, start=start and ends, end=end and ends)
        stored = checkpoint.read(set(wanted.values()))
        state = {name: stored[source] for name, source in wanted.items()}
        has_start, has_end = start and ends, end and ends
        read = _dtype_to_read(architecture, stored, dtype) if group and not plain else dtype
        model = _fill(architecture, group, state, has_start, has_end, read, attention)
        mapped = {tensor.untyped_storage().data_ptr() for tensor in stored.values()}
        cast = None if read is dtype else dtype
        settle = partial(_settle, mapped=mapped, device=device, dtype=cast)
        inner = model.get_submodule(architecture.decoder)
        for layer in getattr(inner, architecture.layers):
            quantise(layer, quantisation, partial(settle, copied="weight"), dtype)
        settle("", model)
        for index, layer in zip(group, getattr(inner, architecture.layers), strict=True):
            layers[index] = merged(layer)
        setattr(inner, architecture.layers, nn.ModuleList())
        return model

    try:
        shell = load(groups[0], ends=True)
        for group in groups[1:]:
            load(group, ends=False)
            trim_heap()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"no memory for {len(indices)} layers on {device}") from error
    for name in architecture.head if end else ():
        shell.set_submodule(name, widened(shell.get_submodule(name)))
    move_to_huge_pages([*layers.values(), shell])
    return LoadedSlice(layers, shell, start, end)


def weight_bytes(modules: Sequence[nn.Module]) -> int:
    """Memory of all parameters, tensors that share it counted once."""
    sizes: dict[tuple[int, int], int] = {}
    for module in modules:
        for part in module.modules():
            if beside := resident_bytes(part):
                sizes[id(part), 0] = beside
        for parameter in module.parameters():
            storage = parameter.untyped_storage()
            sizes[storage.data_ptr(), storage.nbytes()] = storage.nbytes()
    return sum(sizes.values())


def _wanted(
    architecture: Architecture,
    checkpoint: Checkpoint,
    indices: Sequence[int],
    *,
    start: bool,
    end: bool,
) -> dict[str, str]:
    """Tensor names as the cut model knows them, with the names they have in the checkpoint."""
    number = {index: place for place, index in enumerate(indices)}
    before = set(architecture.before)
    wanted = {}
    for name in checkpoint.files:
        index = layer_of(name, architecture.layers)
        if index is not None:
            if index in number:
                wanted[renumber(name, architecture.layers, number[index])] = name
        elif start if before.intersection(name.split(".")[:-1]) else end:
            wanted[name] = name  # checkpoints may call the head otherwise, so it is all the rest
    if end:
        for target, source in architecture.tied.items():
            wanted.pop(target, None)
            tail = source.removeprefix(architecture.decoder + ".")
            found = [n for n in checkpoint.files if n in (source, tail) or n.endswith(f".{tail}")]
            wanted[target] = found[0] if found else source
            if not found:
                raise ModelError(f"{checkpoint.folder} has no tensor {source}")
    return wanted


def _dtype_to_read(
    architecture: Architecture, stored: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> torch.dtype:
    """The dtype in which a layer to be quantised is read: as stored, so that no copy of it is made.

    Where tensors differ, or the model's class keeps some in float32, transformers has to convert.
    """
    model: Any = architecture.model_class
    kept = model._keep_in_fp32_modules or model._keep_in_fp32_modules_strict  # noqa: SLF001
    found = {tensor.dtype for tensor in stored.values()}
    return found.pop() if not kept and len(found) == 1 and found <= FLOATS else dtype


def _fill(
    architecture: Architecture,
    indices: Sequence[int],
    state: dict[str, torch.Tensor],
    start: bool,
    end: bool,
    dtype: torch.dtype,
    attention: str,
) -> nn.Module:
    def cut(model: nn.Module) -> None:
        inner = model.get_submodule(architecture.decoder)
        whole = getattr(inner, architecture.layers)
        setattr(inner, architecture.layers, nn.ModuleList([whole[index] for index in indices]))
        for name in () if start else architecture.before:
            setattr(inner, name, Absent())
        for name in () if end else architecture.after:
            setattr(inner, name, Absent())
        for name in () if end else architecture.head:
            model.set_submodule(name, Absent())

    base: Any = architecture.model_class

    class Sliced(base):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            cut(self)

    Sliced.__name__, Sliced.__module__ = base.__name__, base.__module__
    Sliced.__qualname__ = base.__qualname__
    config = copy.deepcopy(architecture.config)
    config.tie_word_embeddings = False
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model, info = Sliced.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=dtype,
            attn_implementation=attention,
            ignore_mismatched_sizes=True,  # so that they are listed, and refused below
            output_loading_info=True,
        )
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"the weights do not fit the configuration: {error}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    for problem, names in (
        ("lacks", info.get("missing_keys")),
        ("has unexpected", info.get("unexpected_keys")),
        ("has tensors of another shape:", info.get("mismatched_keys")),
    ):
        if names:
            first = min(str(name) for name in names)
            raise ModelError(
                f"the checkpoint {problem} {len(names)} tensors, first {first}",
                hint="config.json and weights do not belong together, or a download is not whole",
            )
    filled: nn.Module = model
    return filled.eval().requires_grad_(requires_grad=False)


def _settle(
    path: str,
    model: nn.Module,
    *,
    mapped: set[int],
    device: torch.device,
    dtype: torch.dtype | None,
    copied: str = "",
) -> None:
    """Move parameters to the device, or out of the mapped file; check that they are finite.

    Args:
        path: Where the module lies, for messages.
        model: The module; what is quantised in it stays.
        mapped: Where the file's storages begin.
        device: To hold it on.
        dtype: To hold it in; None leaves it.
        copied: A parameter that is read just once from here on, so it may stay in the file and in
            its dtype.
    """
    moved: dict[int, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        low, high = torch.aminmax(parameter.data)
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            named = f"{path}.{name}" if path else name
            raise ModelError(
                f"tensor {named} holds NaN or infinite numbers", hint="download it again"
            )
        key = parameter.data_ptr()
        if key not in moved:
            data = parameter.data.to(device, None if name == copied else dtype)
            in_file = data.untyped_storage().data_ptr() in mapped and name != copied
            if in_file or not data.is_contiguous():
                data = data.clone(memory_format=torch.contiguous_format)
            moved[key] = data
        parameter.data = moved[key]
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
