"""Which architectures can be cut into slices, and where in their modules the cuts lie.

Every decoder has the same anatomy: parts before the layers (embedding, position table), a
`ModuleList` of layers, parts after them (final norm) and a head outside. Always: only architectures
are taken whose slices were proved equal to the whole model (tests/unit/engine); others are refused
by name, because a slice that is silently wrong is worse than none.
"""

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from helix_p2p.engine.manifest import architecture_of, read_config
from helix_p2p.engine.supported import check_supported
from helix_p2p.errors import ModelError

AFTER_LAYERS = frozenset(
    {"final_layer_norm", "final_layernorm", "final_norm", "ln_f", "norm", "project_out"}
)
"""Names of the parts that the inner model runs after its layers; parts with weights that are not
named so run before them."""


class Absent(nn.Module):
    """Stands where another peer holds the part: hidden states pass through, all else gives zero."""

    def forward(self, given: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`given` itself if it is a hidden state, otherwise a zero that adds nothing."""
        if given is not None and given.is_floating_point() and given.dim() > 2:
            return given
        for value in (given, *args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                return torch.zeros((), device=value.device)
        return torch.zeros(())


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model's class and the places of its parts.

    Attributes:
        model_class: What transformers loads.
        config: The checkpoint's, never changed.
        decoder: Path of the inner model inside the outer, e.g. `model`.
        layers: Name of its `ModuleList`, e.g. `layers`.
        before: Names of the inner model's parts with weights that run before the layers.
        after: Those that run after them, with weights or without.
        head: Names of the outer model's parts with weights.
        packed: Whether its attention can be replaced (see attention.py); else rows run one by one.
        latent: Whether its cache is compressed and expanded anew in each step (MLA).
        tied: Tensors that share another's memory, target to source.
    """

    model_class: type[nn.Module]
    config: PreTrainedConfig
    decoder: str
    layers: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    head: tuple[str, ...]
    packed: bool
    latent: bool
    tied: dict[str, str]

    @property
    def layer_count(self) -> int:
        """Decoder layers."""
        return int(self.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the hidden state between layers."""
        return int(self.config.hidden_size)

    def config_for(self, start: int, end: int) -> PreTrainedConfig:
        """The configuration of layers [start, end): per-layer lists cut to them."""
        config = copy.deepcopy(self.config)
        for name, value in vars(config).items():
            if isinstance(value, list | tuple) and len(value) == self.layer_count:
                setattr(config, name, value[start:end])
        config.num_hidden_layers = end - start
        return config


def read_architecture(folder: Path) -> tuple[Architecture, nn.Module]:
    """What a model folder's configuration describes.

    Returns:
        The architecture, and the whole model without memory (on torch's meta device).

    Raises:
        ModelError: It cannot be read or cannot be sliced.
    """
    raw = read_config(folder)
    name = architecture_of(raw)
    check_supported(name, raw)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        with torch.device("meta"):
            model = model_class(copy.deepcopy(config))
    except ModelError:
        raise
    except Exception as error:  # transformers raises many kinds for a config that is wrong
        raise ModelError(
            f"{folder / 'config.json'} does not describe a model: {_first_line(error)}",
            hint="download config.json again",
        ) from error
    if model_class.__name__ != name:
        raise ModelError(f"{name} is not what transformers loads for it: {model_class.__name__}")
    return dissect(config, model), model


def dissect(config: PreTrainedConfig, model: nn.Module) -> Architecture:
    """Find the layers and what runs before and after them."""
    count = config.num_hidden_layers
    decoder, layers = _find_layers(model, count)
    inner = model.get_submodule(decoder)
    before = [
        name
        for name, child in inner.named_children()
        if name not in AFTER_LAYERS | {layers} and any(True for _ in child.parameters())
    ]
    # a norm counts even without weights (olmo): it must not run after every slice
    after = [name for name, _ in inner.named_children() if name in AFTER_LAYERS]
    path = decoder.split(".")
    head = []
    for depth in range(len(path)):
        owner = model.get_submodule(".".join(path[:depth]))
        head += [
            ".".join([*path[:depth], name])
            for name, child in owner.named_children()
            if name != path[depth] and any(True for _ in child.parameters())
        ]
    module = sys.modules[type(model).__module__]
    return Architecture(
        model_class=type(model),
        config=config,
        decoder=decoder,
        layers=layers,
        before=tuple(before),
        after=tuple(after),
        head=tuple(head),
        packed=hasattr(module, "ALL_ATTENTION_FUNCTIONS"),
        latent=any(hasattr(module, "expand_kv") for module in inner.modules()),
        tied=dict(getattr(model, "all_tied_weights_keys", None) or {}),
    )


def _find_layers(model: nn.Module, count: int) -> tuple[str, str]:
    for path, module in model.named_modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return path, name
    raise ModelError(f"{type(model).__name__} has no list of {count} layers")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
