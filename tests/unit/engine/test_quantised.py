"""Weights in fewer bits: near the same numbers, less memory, exact accounts, clear refusals."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from helix_p2p.cluster.profile import PeerProfile
from helix_p2p.engine.quantised import (
    Int8Linear,
    Quantisation,
    check_computable,
    quantise,
)
from helix_p2p.engine.torch_engine import EngineConfig, TorchEngine
from helix_p2p.engine.wireformat import DTYPES
from helix_p2p.errors import ConfigError, ModelError
from helix_p2p.node.config import PeerConfig
from helix_p2p.node.lending import choose_device, held_in, lend
from helix_p2p.routing.recheck import TOLERANCE, tolerance
from helix_p2p.types import LayerRange, PeerId
from tests.unit.engine.tiny import LAYERS, Chain, make_model, manifest_of, row, session

WHOLE = LayerRange(0, LAYERS)
WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
NOISE = {Quantisation.INT8: 0.08, Quantisation.NF4: 0.5}
"""Of random weights, six layers deep; real ones are kinder."""


def needs(how: Quantisation) -> None:
    if how is Quantisation.NF4:
        pytest.importorskip("bitsandbytes")


def chain_of(folder: Path, how: Quantisation, dtype: str = "f32") -> Chain:
    chain = Chain(
        folder, [((0, 3), (0, 3)), ((3, 6), (3, 6))], EngineConfig(1 << 30, "cpu", dtype, how)
    )
    chain.open(session(1))
    return chain


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("how", [Quantisation.INT8, Quantisation.NF4])
def test_quantised_logits_stay_near_and_take_less_memory(
    how: Quantisation, dtype: str, tmp_path: Path
) -> None:
    needs(how)
    make_model("Llama", tmp_path, **WIDE)
    plain, small = (chain_of(tmp_path, h, dtype) for h in (Quantisation.NONE, how))
    tokens = [5, 6, 7, 8, 9]
    wanted, got = (chain.logits([row(1, 0, 5)], tokens).float() for chain in (plain, small))
    assert (got - wanted).norm() < NOISE[how] * wanted.norm()
    smaller = 0.6 if how is Quantisation.INT8 else 0.4
    for (big, _), (little, layers) in zip(plain.stages, small.stages, strict=True):
        assert little.spec.layer_bytes < smaller * big.spec.layer_bytes
        assert little.weight_bytes == little.spec.weight_bytes(layers)
        assert little.kv_capacity_token_layers > big.kv_capacity_token_layers


@pytest.mark.parametrize("name", ["GPT2", "Bloom", "Falcon", "DeepseekV3", "Gemma2", "OPT", "Phi3"])
def test_int8_fits_every_kind_of_layer(name: str, tmp_path: Path) -> None:
    make_model(name, tmp_path, **({"first_k_dense_replace": 6} if name == "DeepseekV3" else {}))
    plain, small = (chain_of(tmp_path, h) for h in (Quantisation.NONE, Quantisation.INT8))
    tokens = [5, 6, 7, 8, 9]
    wanted, got = (chain.logits([row(1, 0, 5)], tokens) for chain in (plain, small))
    assert 0 < (got - wanted).norm() < 0.1 * wanted.norm()


def test_peers_with_different_weights_serve_in_one_pipeline(tmp_path: Path) -> None:
    make_model("Llama", tmp_path, **WIDE)
    plain = chain_of(tmp_path, Quantisation.NONE)
    small = chain_of(tmp_path, Quantisation.INT8, "bf16")
    mixed = Chain.__new__(Chain)
    mixed.stages = [plain.stages[0], small.stages[1]]
    tokens = [5, 6, 7]
    wanted = plain.logits([row(1, 0, 3)], tokens)
    got = mixed.logits([row(1, 0, 3)], tokens).float()
    assert (got - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("rows", [1, 3, 5, 200])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_the_int8_product_is_exact_for_its_weights(dtype: str, rows: int) -> None:
    kind = DTYPES[dtype]
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(700, 512, generator=generator).to(kind)  # more than one strip
    bias = torch.randn(700, generator=generator).to(kind)
    linear = Int8Linear(weight, bias)
    given = torch.randn(rows, 512, generator=generator).to(kind)
    back = linear.weight.double() * linear.scale.double()[:, None]
    wanted = given.double() @ back.t() + bias.double()
    with torch.inference_mode():
        got = linear(given[None])[0].double()
    assert (got - wanted).norm() < 10 * torch.finfo(kind).eps * wanted.norm()
    assert (back - weight.double()).abs().max() < weight.abs().max() / 127


@pytest.mark.parametrize("shape", [(33, 31), (300, 512)])  # less than a strip, and more than two
def test_nf4_in_strips_is_what_bitsandbytes_makes_of_the_whole(shape: tuple[int, int]) -> None:
    library = pytest.importorskip("bitsandbytes")
    linear = nn.Linear(*reversed(shape), dtype=torch.bfloat16)
    weight = linear.weight.detach().clone()
    layer = nn.ModuleDict({"matrix": linear})
    quantise(layer, Quantisation.NF4)
    packed, state = library.functional.quantize_4bit(
        weight, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    got = layer["matrix"].weight
    assert torch.equal(got.data, packed)
    for name in ("absmax", "offset", "code"):
        assert torch.equal(getattr(got.quant_state, name), getattr(state, name))
    assert torch.equal(got.quant_state.state2.absmax, state.state2.absmax)
    assert got.quant_state.shape == state.shape


def test_numbers_that_are_none_are_refused_by_name_before_they_are_quantised(
    tmp_path: Path,
) -> None:
    make_model("Llama", tmp_path, **WIDE)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.2.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    config = EngineConfig(1 << 30, quantisation=Quantisation.INT8)
    engine = TorchEngine(tmp_path, manifest_of(tmp_path), config)
    with pytest.raises(ModelError, match=r"mlp\.up_proj\.weight holds NaN"):
        engine.prepare(WHOLE)


def test_a_row_of_zeros_stays_zero() -> None:
    linear = Int8Linear(torch.zeros(2, 4, dtype=torch.float16), None)
    assert torch.equal(linear(torch.ones(1, 4, dtype=torch.float16)), torch.zeros(1, 2).half())


def test_a_mixture_whose_experts_are_no_matrices_is_refused_by_name(tmp_path: Path) -> None:
    make_model("Mixtral", tmp_path)
    config = EngineConfig(1 << 30, quantisation=Quantisation.INT8)
    with pytest.raises(ModelError, match="experts are held as one tensor"):
        TorchEngine(tmp_path, manifest_of(tmp_path), config)


def test_nf4_without_bitsandbytes_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"helix-p2p\[nf4\]"):
        check_computable("cpu", torch.float32, Quantisation.NF4)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("how", list(Quantisation))
def test_checks_know_what_a_peer_says_its_weights_are_held_in(
    dtype: str, how: Quantisation
) -> None:
    words = [dtype, *([] if how is Quantisation.NONE else [str(how)])]
    said = held_in(EngineConfig(1, "cpu", dtype, how))
    assert tolerance([said]) == max(TOLERANCE[word] for word in words)


def test_what_the_device_cannot_compute_is_refused_before_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PeerConfig(tmp_path, device="cpu", dtype="bfloat16", memory_bytes=1 << 28)
    assert held_in(choose_device(config)[1]) == "bf16"

    def lacks(*_: object) -> torch.Tensor:
        raise RuntimeError('"addmm_impl_cpu_" not implemented for BFloat16')

    monkeypatch.setattr(nn.Linear, "forward", lacks)
    with pytest.raises(ConfigError, match="cpu cannot compute in"):
        choose_device(config)


def test_the_room_that_plans_see_is_the_room_that_the_engine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helix_p2p.engine.profile.BUDGET_S", 0.001)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    make_model("Llama", folder, **WIDE)
    manifest = manifest_of(folder)
    loans = {
        how: lend(
            PeerConfig(tmp_path, device="cpu", memory_bytes=3_000_000, quantisation=how),
            folder,
            manifest,
        )
        for how in ("none", "int8")
    }
    own = loans["none"].spec
    assert loans["int8"].spec == own
    assert loans["none"].held is None
    most = {}
    for how, loan in loans.items():
        profile = PeerProfile(PeerId("p"), loan.memory_bytes, (), held=loan.held)
        assert profile.memory_bytes == 3_000_000
        ranges = (WHOLE, LayerRange(0, 3), LayerRange(2, 6), LayerRange(1, 2))
        fitting = [layers for layers in ranges if profile.room_bytes(own, layers) >= 0]
        for layers in fitting:
            loan.engine.retain(layers)
            loan.engine.install(loan.engine.prepare(layers))
            room = loan.engine.kv_capacity_token_layers
            assert int(profile.room_tokens(own, layers)) == room
        most[how] = max(len(layers) for layers in fitting)
    assert most["int8"] > most["none"]
    assert loans["int8"].speed != loans["none"].speed


def test_choosers_of_experts_stay_exact() -> None:
    layer = nn.ModuleDict({"gate": nn.Linear(8, 4), "up_proj": nn.Linear(8, 4)})
    quantise(layer, Quantisation.INT8)
    assert type(layer["gate"]) is nn.Linear
    assert type(layer["up_proj"]) is Int8Linear
