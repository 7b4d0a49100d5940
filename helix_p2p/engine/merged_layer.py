"""A Llama-like layer in some twenty tensor operations instead of some seventy.

transformers' layer is right for every architecture and says everything twice: three products where
one does, norms in six operations, keyword arguments through four levels of modules. With one
row, which is a single stream, that shows on a CPU: SmolLM2's layer takes 1.82 ms, merged 1.59, and
its weights alone pass through memory in 1.1 (medians in one run; at 8 rows there is no difference).
So the layers of the families that are Llama in all but name are taken apart once, when they are
loaded, and run from here.

Always: the same numbers up to rounding, as the tests compare with the whole model; a layer that is
not exactly one of `FAMILIES`, or whose rotary embedding changes with the length, is left alone.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

FAMILIES = frozenset(
    f"transformers.models.{name}.modeling_{name}" for name in ("llama", "mistral", "qwen2", "qwen3")
)
STEADY_ROPES = frozenset(("default", "linear", "llama3", "yarn"))
"""Their frequencies are the same whatever the length."""
FIRST_POSITIONS = 512


class Rotation(NamedTuple):
    """A step's cosines and sines, `[N, 1, dim]`; the sines' first half has its sign turned."""

    cos: torch.Tensor
    sin: torch.Tensor


class MergedLayer(nn.Module):
    """One decoder layer, with query, key and value in one matrix, gate and up in another.

    Args:
        layer: Of one of `FAMILIES`; its weights are copied into the merged ones.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.index = int(attention.layer_idx)
        self._dim = int(attention.head_dim)
        self._heads = attention.q_proj.out_features // self._dim
        self._kv_heads = attention.k_proj.out_features // self._dim
        self._scaling = float(attention.scaling)
        self._window: int | None = getattr(attention, "sliding_window", None)
        if type(layer).__name__.startswith("Mistral"):
            self._window = attention.config.sliding_window
        self._act = mlp.act_fn
        self._eps = float(layer.input_layernorm.variance_epsilon)
        self.before = layer.input_layernorm.weight
        self.between = layer.post_attention_layernorm.weight
        self.qkv, self.qkv_bias = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.out_bias = _joined(attention.o_proj)
        self.gate_up, self.gate_up_bias = _joined(mlp.gate_proj, mlp.up_proj)
        self.down, self.down_bias = _joined(mlp.down_proj)
        self.query_norm = attention.q_norm.weight if hasattr(attention, "q_norm") else None
        self.key_norm = attention.k_norm.weight if hasattr(attention, "k_norm") else None

    def forward(self, hidden: torch.Tensor, rotation: Rotation, cache: Any) -> torch.Tensor:
        """One layer.

        Args:
            hidden: `[N, d_model]`.
            rotation: Of the rows' positions.
            cache: The engine's `PackedAttention`, in a step.

        Returns:
            `[N, d_model]`.
        """
        width, dim, eps = hidden.shape[-1:], self._dim, self._eps
        heads, kv_heads = self._heads, self._kv_heads
        normed = F.rms_norm(hidden, width, self.before, eps)
        qkv = F.linear(normed, self.qkv, self.qkv_bias).view(-1, heads + 2 * kv_heads, dim)
        turned = qkv.narrow(1, 0, heads + kv_heads)
        if self.query_norm is not None:
            query, key = turned.narrow(1, 0, heads), turned.narrow(1, heads, kv_heads)
            query = F.rms_norm(query, (dim,), self.query_norm, eps)
            turned = torch.cat((query, F.rms_norm(key, (dim,), self.key_norm, eps)), 1)
        turned = _rotated(turned, rotation)
        query = turned.narrow(1, 0, heads).transpose(0, 1)[None]
        key = turned.narrow(1, heads, kv_heads).transpose(0, 1)[None]
        value = qkv.narrow(1, heads + kv_heads, kv_heads).transpose(0, 1)[None]
        key, value = cache.update(key, value, self.index)
        seen, _ = cache.attend(
            self, query, key, value, scaling=self._scaling, sliding_window=self._window
        )
        hidden = _added(hidden, seen.reshape(-1, heads * dim), self.out, self.out_bias)
        normed = F.rms_norm(hidden, width, self.between, eps)
        gate, up = F.linear(normed, self.gate_up, self.gate_up_bias).chunk(2, -1)
        return _added(hidden, self._act(gate) * up, self.down, self.down_bias)


class MergedSpan:
    """Layers one after another, with the model's own embedding and rotary embedding.

    Args:
        inner: The inner model.
        layers: In order.

    Attributes:
        table: The rotations of all positions so far.
    """

    def __init__(self, inner: Any, layers: list[MergedLayer]) -> None:
        self._inner = inner
        self._layers = layers
        self.table = Rotation(torch.empty(0), torch.empty(0))

    def run(
        self,
        tokens: torch.Tensor | None,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        cache: Any,
    ) -> torch.Tensor:
        """See `spans.Span.run`."""
        states: torch.Tensor = self._inner.embed_tokens(tokens) if hidden is None else hidden
        states = states[0]
        rotation = self._rotation(positions[0], states, cache.highest)
        for layer in self._layers:
            states = layer(states, rotation, cache)
        return states[None]

    def _rotation(self, positions: torch.Tensor, like: torch.Tensor, highest: int) -> Rotation:
        if highest >= len(self.table.cos) or self.table.cos.device != like.device:
            count = FIRST_POSITIONS
            while count <= highest:
                count *= 2
            every = torch.arange(count, device=like.device)[None]
            cos, sin = self._inner.rotary_emb(like, every)
            half = sin.shape[-1] // 2
            signed = torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)
            self.table = Rotation(cos[0, :, None], signed[:, None])
        return Rotation(
            self.table.cos.index_select(0, positions), self.table.sin.index_select(0, positions)
        )


class MergedHead:
    """Final norm and head of `FAMILIES`, which scale and cap nothing.

    Args:
        shell: The outer model.
        inner: The inner one, with its final norm.
    """

    def __init__(self, shell: Any, inner: Any) -> None:
        self._norm = inner.norm
        self._product = shell.lm_head

    @staticmethod
    def fits(shell: nn.Module) -> bool:
        """Whether this model's head is nothing more."""
        kind = type(shell)
        return kind.__module__ in FAMILIES and kind.__name__.endswith("ForCausalLM")

    def run(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `spans.Head.run`."""
        norm = self._norm
        normed = F.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
        logits: torch.Tensor = self._product(normed)
        return logits


def merged(layer: nn.Module) -> nn.Module:
    """The merged form of a layer where that is possible, else the layer itself."""
    kind = type(layer)
    if kind.__module__ not in FAMILIES or not kind.__name__.endswith("DecoderLayer"):
        return layer
    plain: Any = layer
    attention, mlp = plain.self_attn, plain.mlp
    rope = getattr(attention.config, "rope_parameters", None) or {}
    linear = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    linear += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    if rope.get("rope_type", "default") not in STEADY_ROPES:
        return layer
    if any(type(part) is not nn.Linear for part in linear):
        return layer  # quantised, or otherwise not what it was
    return MergedLayer(layer).eval()


def _joined(*parts: nn.Linear) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weights one under another, and their biases if they have any."""
    if len(parts) == 1:
        only: Any = parts[0]  # torch declares a bias, though it may be None
        return only.weight, only.bias
    biases = [part.bias.detach() for part in parts if part.bias is not None]
    return _kept([part.weight.detach() for part in parts]), _kept(biases) if biases else None


def _kept(tensors: list[torch.Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.cat(tensors), requires_grad=False)


def _rotated(heads: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """`[N, heads, dim]` turned by the positions' angles."""
    half = heads.shape[-1] // 2
    swapped = torch.cat((heads.narrow(2, half, half), heads.narrow(2, 0, half)), 2)
    return torch.addcmul(heads * rotation.cos, swapped, rotation.sin)


def _added(
    hidden: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """`hidden` plus the product, in one operation where there is no bias."""
    if bias is None:
        return torch.addmm(hidden, rows, weight.t())
    return hidden + F.linear(rows, weight, bias)
