"""Tiny random models of every architecture, and the whole-model truth to compare slices with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from helix_p2p.cluster.manifest import Manifest
from helix_p2p.engine.contract import SampleRequest, StepRow
from helix_p2p.engine.manifest import read_manifest
from helix_p2p.engine.torch_engine import EngineConfig, TorchEngine
from helix_p2p.session.messages import Sampling
from helix_p2p.types import LayerRange, SessionId

VOCAB = 97
LAYERS = 6

COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SLIDING = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"] * 3}
MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 2,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "Bloom": {"hidden_size": 32, "n_layer": LAYERS, "n_head": 4, "vocab_size": VOCAB},
    "Cohere": {"logit_scale": 0.25},
    "Cohere2": {**SLIDING, "logit_scale": 0.25},
    "DeepseekV2": {**MLA, "topk_method": "greedy"},
    "DeepseekV3": MLA,
    "Falcon": {
        "alibi": False,
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "num_ln_in_parallel_attn": 2,
    },
    "GPT2": {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 256},
    "GPTNeoX": {},
    "Gemma": {},
    "Gemma2": {**SLIDING, "query_pre_attn_scalar": 8},
    "Gemma3": {**SLIDING, "query_pre_attn_scalar": 8},
    "Glm": {},
    "Glm4": {},
    "GptOss": {**SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Granite": {"logits_scaling": 2.0, "residual_multiplier": 0.7, "embedding_multiplier": 3.0},
    "Llama": {},
    "Mistral": {"sliding_window": 5},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "Olmo": {},
    "Olmo2": {},
    "Phi": {},
    "Phi3": {"sliding_window": 5},
    "Qwen2": {"use_sliding_window": True, **SLIDING},
    "Qwen2Moe": {**MOE, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 2},
    "Qwen3": {},
    "Qwen3Moe": MOE,
    "SmolLM3": {"no_rope_layers": [1, 1, 0, 1, 1, 0]},
    "StableLm": {"use_qkv_bias": True},
    "Starcoder2": {"sliding_window": 5},
}
"""By the start of the configuration's class name; what differs from `COMMON`."""


def make_model(name: str, folder: Path, **changes: Any) -> torch.nn.Module:
    """Write a tiny random model of an architecture into `folder` and return it whole."""
    given = {**COMMON, **CONFIGS[name], **changes}
    if name == "Falcon":
        del given["head_dim"]
    kind = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    config = getattr(transformers, kind)(**given)
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # norms of one and biases of zero would hide mistakes
        parameter.data.normal_(0.0 if parameter.dim() > 1 else 0.3, 0.3)
    model.save_pretrained(folder)
    return model


def manifest_of(folder: Path) -> Manifest:
    return read_manifest(folder, cache=folder / "hashes")


EVERYTHING_FITS = EngineConfig(1 << 30)


class Chain:
    """Engines one after another, as a pipeline runs them."""

    def __init__(
        self,
        folder: Path,
        stages: Sequence[tuple[tuple[int, int], tuple[int, int]]],
        config: EngineConfig = EVERYTHING_FITS,
    ) -> None:
        """`stages`: what each engine holds, and what of it the pipeline runs."""
        manifest = manifest_of(folder)
        self.stages = []
        for held, run in stages:
            engine = TorchEngine(folder, manifest, config)
            engine.install(engine.prepare(LayerRange(*held)))
            self.stages.append((engine, LayerRange(*run)))

    def open(self, *sessions: SessionId, kv_tokens: int = 64) -> None:
        for engine, layers in self.stages:
            for session in sessions:
                engine.open(session, layers, kv_tokens)

    def logits(self, rows: Sequence[StepRow], tokens: Sequence[int]) -> torch.Tensor:
        """Logits after each position: `[sum(counts), vocab]`."""
        hidden = None
        for engine, layers in self.stages[:-1]:
            hidden = engine.step(layers, rows, tokens=tokens, hidden=hidden).hidden
        engine, layers = self.stages[-1]
        seen = []
        choose = engine._choose
        engine._choose = lambda rows, packed, out: seen.append(engine._head.run(out)) or ()  # type: ignore[method-assign]
        try:
            engine.step(layers, rows, tokens=tokens, hidden=hidden)
        finally:
            engine._choose = choose  # type: ignore[method-assign]
        return seen[0]


def session(number: int) -> SessionId:
    return SessionId(number.to_bytes(16, "big"))


def row(number: int, position: int, count: int, *, wanted: bool = False) -> StepRow:
    wish = SampleRequest(Sampling(), position + count) if wanted else None
    return StepRow(session(number), position, count, wish)
