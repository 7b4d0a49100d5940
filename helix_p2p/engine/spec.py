"""The model's sizes as the planner and the wire need them, from its configuration alone.

No weight is read: parameters are counted on torch's meta device, and the KV cache's shape is what
the first layer hands to its cache there. Always exact for the dtype given, except that layers of
unlike size all count as the largest.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from helix_p2p.cluster.manifest import Manifest
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.engine.architecture import Architecture
from helix_p2p.engine.kv import KvGeometry
from helix_p2p.engine.quantised import Quantisation, quantised_bytes
from helix_p2p.errors import ModelError


def spec_of(
    manifest: Manifest,
    architecture: Architecture,
    model: nn.Module,
    dtype: torch.dtype,
    quantisation: Quantisation = Quantisation.NONE,
) -> ModelSpec:
    """Sizes of the model when held in `dtype`.

    Args:
        manifest: Gives name and hash.
        architecture: Of the model.
        model: The whole model on the meta device.
        dtype: Of weights, KV cache and activations.
        quantisation: How the layers' matrices are held.

    Raises:
        ModelError: The layers cannot be quantised.
    """
    inner = model.get_submodule(architecture.decoder)
    size = dtype.itemsize
    layers: Any = getattr(inner, architecture.layers)
    head = {id(p): p for name in architecture.head for p in model.get_submodule(name).parameters()}
    head |= {id(p): p for name in architecture.after for p in getattr(inner, name).parameters()}
    return ModelSpec(
        name=manifest.name,
        manifest_hash=manifest.manifest_hash,
        layers=manifest.layers,
        d_model=architecture.d_model,
        vocab_size=manifest.vocab_size,
        context_tokens=manifest.context_tokens,
        layer_bytes=max(quantised_bytes(layer, quantisation, dtype) for layer in layers),
        embedding_bytes=sum(_numel(getattr(inner, name)) for name in architecture.before) * size,
        head_bytes=sum(p.numel() for p in head.values()) * size,
        kv_bytes_per_token=kv_geometry(architecture, model, dtype).bytes_per_token,
        activation_bytes=architecture.d_model * size,
    )


def kv_geometry(architecture: Architecture, model: nn.Module, dtype: torch.dtype) -> KvGeometry:
    """Shape of one layer's cache.

    Raises:
        ModelError: The layers keep no ordinary KV cache.
    """
    config: Any = architecture.config
    if config.model_type == "bloom":
        dim = config.hidden_size // config.n_head
        return KvGeometry(config.n_head, dim, dim, dtype)
    if config.model_type == "falcon":
        dim = config.hidden_size // config.num_attention_heads
        shared = config.multi_query and not config.new_decoder_architecture
        return KvGeometry(1 if shared else config.num_attention_heads, dim, dim, dtype)
    inner: Any = model.get_submodule(architecture.decoder)
    stock = inner.config._attn_implementation  # noqa: SLF001
    inner.config._attn_implementation = "helix_probe"  # noqa: SLF001 - no masks for unknown names
    try:
        with torch.no_grad(), torch.device("meta"):
            inner(
                inputs_embeds=torch.empty(1, 1, _embedding_width(architecture)),
                position_ids=torch.zeros(1, 1, dtype=torch.long),
                past_key_values=_Probe(),
                use_cache=True,
            )
    except _Seen as seen:
        key, value = seen.key, seen.value
    finally:
        inner.config._attn_implementation = stock  # noqa: SLF001
    if key.dim() != 4 or key.shape[1] != value.shape[1]:
        raise ModelError(f"{architecture.model_class.__name__} keeps a KV cache of unknown shape")
    return KvGeometry(key.shape[1], key.shape[3], value.shape[3], dtype)


def _embedding_width(architecture: Architecture) -> int:
    return int(getattr(architecture.config, "word_embed_proj_dim", architecture.d_model))


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class _Seen(Exception):
    def __init__(self, key: torch.Tensor, value: torch.Tensor) -> None:
        super().__init__()
        self.key = key
        self.value = value


class _Probe(Cache):
    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> Any:  # noqa: ARG002
        raise _Seen(key_states, value_states)
