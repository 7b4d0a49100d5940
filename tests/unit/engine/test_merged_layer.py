"""Layers of Llama's families are merged; what is not exactly theirs is left alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helix_p2p.engine.contract import StepRow
from helix_p2p.engine.merged_layer import MergedHead, MergedLayer, merged
from tests.unit.engine.tiny import Chain, make_model, session

PROMPT = [5, 6, 7, 8, 9, 10, 11]


def layers_of(folder: Path) -> Any:
    engine, _ = Chain(folder, [((0, 6), (0, 6))]).stages[0]
    return engine._layers


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_layers_of_these_families_are_merged(name: str, tmp_path: Path) -> None:
    model = make_model(name, tmp_path)
    assert MergedHead.fits(model)
    assert all(isinstance(layer, MergedLayer) for layer in layers_of(tmp_path).values())


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"mlp_bias": True}])
def test_biases_count_everywhere(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = make_model("Llama", tmp_path, **changes)
    chain = Chain(tmp_path, [((0, 6), (0, 6))])
    chain.open(session(1))
    got = chain.logits([StepRow(session(1), 0, len(PROMPT))], PROMPT)
    with torch.no_grad():
        wanted = whole(torch.tensor([PROMPT])).logits[0]
    assert (got - wanted).abs().max() < 1e-5 * max(1.0, float(wanted.abs().max()))


def test_positions_beyond_the_first_table_turn_as_in_the_whole_model(tmp_path: Path) -> None:
    whole = make_model("Llama", tmp_path, max_position_embeddings=2048)
    chain = Chain(tmp_path, [((0, 6), (0, 6))])
    chain.open(session(1), kv_tokens=700)
    ids = [3 + i % 90 for i in range(700)]
    chain.logits([StepRow(session(1), 0, 500)], ids[:500])
    got = chain.logits([StepRow(session(1), 500, 200)], ids[500:])
    with torch.no_grad():
        wanted = whole(torch.tensor([ids])).logits[0, 500:]
    assert (got - wanted).abs().max() < 1e-5 * max(1.0, float(wanted.abs().max()))


def test_a_rope_that_changes_with_the_length_is_left_to_the_model(tmp_path: Path) -> None:
    layer: Any = make_model("Llama", tmp_path).get_submodule("model.layers.0")
    assert isinstance(merged(layer), MergedLayer)
    layer.self_attn.config.rope_parameters["rope_type"] = "dynamic"
    assert merged(layer) is layer


def test_a_layer_with_replaced_products_is_left_alone(tmp_path: Path) -> None:
    class Narrow(nn.Linear):
        """Stands for a quantised product."""

    layer: Any = make_model("Llama", tmp_path).get_submodule("model.layers.0")
    layer.mlp.down_proj = Narrow(48, 32)
    assert merged(layer) is layer
    assert merged(layer.mlp) is layer.mlp
