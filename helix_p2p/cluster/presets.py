"""Known models and GPUs, so that a swarm can be planned before anything is downloaded or measured.

A model's sizes follow from its published shape. A GPU's speed is a roofline: a step takes as long
as reading the weights and the KV cache, or as multiplying, whichever is longer (Williams et al.,
"Roofline", CACM 2009), at the share of the data sheet's figures that kernels reach. A live swarm
never uses this: its peers measure themselves.

Always: sizes are those of a dense Llama-like decoder; embedding and head are 16 bit.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import TYPICAL_CONTEXT_TOKENS, SpeedProfile

BITS_PER_WEIGHT: Mapping[int, float] = MappingProxyType({4: 4.5, 8: 8.5, 16: 16.0})
"""Resident bits by nominal bits: blocks of 32 weights share a 16-bit scale."""

BANDWIDTH_SHARE = 0.7
"""Of the data sheet's memory bandwidth, in decode kernels."""

COMPUTE_SHARE = 0.5
"""Of the data sheet's 16-bit dense throughput, in prefill."""

LAUNCH_S = 100e-6
"""Least time of one layer: launches and small kernels, with graphs (650-1100 µs without)."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense decoder's shape.

    Attributes:
        name: What people call it.
        layers: Decoder layers.
        d_model: Width of the hidden state.
        heads: Query heads.
        kv_heads: Key/value heads.
        head_dim: Width of a head.
        ffn: Width of the gated feed-forward part.
        vocab_size: Rows of embedding and head.
        context_tokens: Longest prompt plus answer.
    """

    name: str
    layers: int
    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab_size: int
    context_tokens: int

    @property
    def layer_params(self) -> int:
        """Weights in one layer: q and o, k and v, gate, up and down."""
        attention = 2 * self.d_model * (self.heads + self.kv_heads) * self.head_dim
        return attention + 3 * self.d_model * self.ffn

    def spec(self, bits: int = 16) -> ModelSpec:
        """Sizes when resident at 4, 8 or 16 bits a weight; embedding and head stay at 16."""
        title = self.name if bits == 16 else f"{self.name}-{bits}bit"
        table_bytes = 2 * self.vocab_size * self.d_model
        return ModelSpec(
            name=title,
            manifest_hash=hashlib.sha256(f"helix preset {title}".encode()).hexdigest(),
            layers=self.layers,
            d_model=self.d_model,
            vocab_size=self.vocab_size,
            context_tokens=self.context_tokens,
            layer_bytes=round(self.layer_params * BITS_PER_WEIGHT[bits] / 8),
            embedding_bytes=table_bytes,
            head_bytes=table_bytes,
            kv_bytes_per_token=2 * self.kv_heads * self.head_dim * 2,
            activation_bytes=2 * self.d_model,
        )


MODELS: Mapping[str, ModelShape] = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            ModelShape("smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 8192),
            ModelShape("llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, 131072),
            ModelShape("qwen3-14b", 40, 5120, 40, 8, 128, 17408, 151936, 40960),
            ModelShape("qwen3-32b", 64, 5120, 64, 8, 128, 25600, 151936, 40960),
            ModelShape("llama-30b", 60, 6656, 52, 52, 128, 17920, 32000, 2048),
            ModelShape("llama-2-70b", 80, 8192, 64, 8, 128, 28672, 32000, 4096),
            ModelShape("llama-3.3-70b", 80, 8192, 64, 8, 128, 28672, 128256, 131072),
            ModelShape("llama-3.1-405b", 126, 16384, 128, 8, 128, 53248, 128256, 131072),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU's data sheet."""

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    flops_per_s: float


def _device(name: str, memory_gb: float, bandwidth_gb_per_s: float, tflops: float) -> Device:
    return Device(name, round(memory_gb * 1e9), bandwidth_gb_per_s * 1e9, tflops * 1e12)


DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        device.name: device
        # memory GB, GB/s, TFLOPS of 16-bit matrices with 32-bit sums
        for device in (
            _device("rtx-3060", 12, 360, 25),
            _device("rtx-3070", 8, 448, 40),
            _device("rtx-3080", 10, 760, 59),
            _device("rtx-3090", 24, 936, 71),
            _device("rtx-4060", 8, 272, 30),
            _device("rtx-4060-ti", 16, 288, 44),
            _device("rtx-4070", 12, 504, 58),
            _device("rtx-4080", 16, 717, 97),
            _device("rtx-4090", 24, 1008, 165),
            _device("rtx-5090", 32, 1792, 209),
            _device("rx-7900-xtx", 24, 960, 61),
            _device("m2-max", 24, 400, 13),
            _device("t4", 16, 320, 65),
            _device("v100", 16, 900, 125),
            _device("l4", 24, 300, 121),
            _device("a100", 40, 1555, 312),
            _device("a100-80gb", 80, 2039, 312),
        )
    }
)


def roofline(shape: ModelShape, bits: int, device: Device) -> SpeedProfile:
    """Seconds per layer that a GPU should take, from data sheets alone.

    Args:
        shape: The model.
        bits: 4, 8 or 16 a weight.
        device: The GPU.
    """
    spec = shape.spec(bits)
    bytes_per_s = device.bandwidth_bytes_per_s * BANDWIDTH_SHARE
    flops_per_s = device.flops_per_s * COMPUTE_SHARE
    context_bytes = spec.kv_bytes_per_token * min(TYPICAL_CONTEXT_TOKENS, spec.context_tokens)

    def seconds(tokens: int, cache_bytes: int) -> float:
        read_s = (spec.layer_bytes + cache_bytes) / bytes_per_s
        return LAUNCH_S + max(read_s, 2.0 * shape.layer_params * tokens / flops_per_s)

    return SpeedProfile(
        prefill=tuple((n, seconds(n, 0)) for n in (1, 32, 64, 128, 256, 512, 1024, 2048)),
        decode=tuple((n, seconds(n, n * context_bytes)) for n in (1, 2, 4, 8, 16, 32, 64, 128)),
        head_s=LAUNCH_S + spec.head_bytes / bytes_per_s,
    )
