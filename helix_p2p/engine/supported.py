"""Which architectures can be served in slices, and why others cannot; known without torch.

Always: an architecture is listed only when a test proves that its slices equal the whole model
(tests/unit/engine/test_slices.py); everything else is refused by name before anything is started.
"""

from collections.abc import Mapping
from typing import Any

from helix_p2p.errors import ModelError

SUPPORTED = frozenset(
    {
        "BloomForCausalLM",
        "Cohere2ForCausalLM",
        "CohereForCausalLM",
        "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM",
        "FalconForCausalLM",
        "GPT2LMHeadModel",
        "GPTNeoXForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "GemmaForCausalLM",
        "GlmForCausalLM",
        "Glm4ForCausalLM",
        "GptOssForCausalLM",
        "GraniteForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "OPTForCausalLM",
        "Olmo2ForCausalLM",
        "OlmoForCausalLM",
        "Phi3ForCausalLM",
        "PhiForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "SmolLM3ForCausalLM",
        "StableLmForCausalLM",
        "Starcoder2ForCausalLM",
    }
)

REFUSED = {
    "gemma3n": "its layers share KV caches, so they cannot be cut apart",
    "gemma4": "its layers share KV caches, so they cannot be cut apart",
    "qwen3_next": "its linear-attention layers keep a state that is not a KV cache",
    "qwen3_5": "its linear-attention layers keep a state that is not a KV cache",
    "mamba": "it is a state-space model and has no KV cache",
    "jamba": "its state-space layers keep a state that is not a KV cache",
    "t5": "it is an encoder-decoder",
    "bart": "it is an encoder-decoder",
    "whisper": "it is an encoder-decoder",
    "bert": "it is an encoder and generates no text",
    "roberta": "it is an encoder and generates no text",
    "distilbert": "it is an encoder and generates no text",
    "deberta": "it is an encoder and generates no text",
    "electra": "it is an encoder and generates no text",
}
"""Why, by prefix of the model type."""


def check_supported(name: str, config: Mapping[str, Any]) -> None:
    """Refuse by name what cannot be sliced.

    Raises:
        ModelError: Says why.
    """
    kind = str(config.get("model_type", ""))
    for prefix, why in REFUSED.items():
        if kind == prefix or kind.startswith((prefix + "_", prefix + "-")):
            raise ModelError(f"{name} cannot be served in slices: {why}")
    if name not in SUPPORTED:
        raise ModelError(
            f"{name} is not supported: nobody has proved that its slices equal the whole model",
            hint="docs/models.md lists the architectures that are",
        )
    if config.get("quantization_config"):
        said = config["quantization_config"]
        method = said.get("quant_method", "unknown") if isinstance(said, Mapping) else said
        raise ModelError(
            f"the checkpoint is already quantised ({method}), which is not supported",
            hint="take the original weights",
        )
