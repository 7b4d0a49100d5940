"""The engine's promises besides its numbers: layers come and go, sessions stay apart, refusals."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helix_p2p.engine.contract import StepRow
from helix_p2p.engine.slices import load_slice
from helix_p2p.engine.torch_engine import EngineConfig, TorchEngine
from helix_p2p.engine.wireformat import from_bytes, to_bytes
from helix_p2p.errors import (
    Busy,
    ModelError,
    NotServing,
    OutOfMemory,
    PoisonedActivation,
    PromptTooLong,
    ProtocolError,
)
from helix_p2p.session.prefixes import KvCopy
from helix_p2p.types import LayerRange
from tests.unit.engine.tiny import LAYERS, Chain, make_model, manifest_of, row, session

WHOLE = LayerRange(0, LAYERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    make_model("Llama", path, tie_word_embeddings=True)
    return path


def engine_of(folder: Path, layers: LayerRange = WHOLE, memory_bytes: int = 1 << 30) -> TorchEngine:
    engine = TorchEngine(folder, manifest_of(folder), EngineConfig(memory_bytes))
    engine.install(engine.prepare(layers))
    return engine


# ── layers ─────────────────────────────────────────────────────────────────────────────────────


def test_a_kept_layer_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(folder, LayerRange(1, 4))
    read: list[tuple[int, ...]] = []

    def spy(architecture, checkpoint, indices, **given):  # type: ignore[no-untyped-def]
        read.append(tuple(indices))
        return load_slice(architecture, checkpoint, indices, **given)

    monkeypatch.setattr("helix_p2p.engine.torch_engine.load_slice", spy)
    engine.install(engine.prepare(LayerRange(0, 6)))
    assert read == [(0, 4, 5)]
    assert engine.held == frozenset(range(6))
    engine.install(engine.prepare(LayerRange(2, 4)))
    assert len(read) == 1


def test_a_range_grown_on_both_sides_computes_the_same(folder: Path) -> None:
    grown = engine_of(folder, LayerRange(2, 4))
    grown.install(grown.prepare(WHOLE))
    direct = engine_of(folder)
    tokens = [5, 6, 7]
    for engine in (grown, direct):
        engine.open(session(1), WHOLE, 16)
    results = [
        engine.step(WHOLE, [row(1, 0, 3, wanted=True)], tokens=tokens) for engine in (grown, direct)
    ]
    assert results[0].tokens == results[1].tokens
    assert (
        grown.weight_bytes
        == direct.weight_bytes
        == (
            grown.spec.weight_bytes(WHOLE) - grown.spec.embedding_bytes  # the tied one is held once
        )
    )


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_tied_embedding_is_held_once_where_both_ends_are(folder: Path, dtype: str) -> None:
    config = EngineConfig(1 << 30, dtype=dtype)
    engine = TorchEngine(folder, manifest_of(folder), config)
    for part in (LayerRange(0, 3), LayerRange(3, 6)):
        engine.install(engine.prepare(part))
    both = engine.spec.weight_bytes(WHOLE)
    assert engine.weight_bytes == both - engine.spec.embedding_bytes


def test_dropped_layers_free_their_memory_and_give_kv_room(folder: Path) -> None:
    engine = engine_of(folder)
    before = engine.kv_capacity_token_layers
    engine.retain(LayerRange(1, 3))
    assert engine.held == {1, 2}
    assert engine.weight_bytes == 2 * engine.spec.layer_bytes
    assert engine.kv_capacity_token_layers > before
    with pytest.raises(NotServing):
        engine.open(session(1), LayerRange(0, 2), 16)
    engine.install(engine.prepare(WHOLE))
    engine.open(session(1), WHOLE, 16)
    assert engine.step(WHOLE, [row(1, 0, 2, wanted=True)], tokens=[3, 4]).tokens[0] is not None


def test_sessions_go_on_while_layers_are_prepared_and_installed(folder: Path) -> None:
    engine = engine_of(folder, LayerRange(0, 3))
    part = LayerRange(0, 3)
    engine.open(session(1), part, 16)
    engine.step(part, [row(1, 0, 2)], tokens=[3, 4])
    prepared = engine.prepare(WHOLE)
    middle = engine.step(part, [row(1, 2, 1)], tokens=[5]).hidden
    engine.install(prepared)
    again = engine.step(part, [row(1, 2, 1)], tokens=[5]).hidden
    assert middle is not None
    assert again is not None
    assert torch.equal(middle, again)


def test_a_running_session_is_not_disturbed_by_loading_in_another_thread(folder: Path) -> None:
    part = LayerRange(2, 4)
    engine = engine_of(folder, part)
    engine.open(session(1), part, 200)
    hidden = torch.randn(1, 32)
    wanted = engine.step(part, [row(1, 0, 1)], hidden=hidden).hidden
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(lambda: [engine.prepare(WHOLE) for _ in range(3)][-1])
        while not loading.done():
            got = engine.step(part, [row(1, 0, 1)], hidden=hidden).hidden
            assert got is not None
            assert torch.equal(got, wanted)
    engine.install(loading.result())
    assert engine.held == frozenset(WHOLE)


def test_layers_beyond_the_memory_are_refused(folder: Path) -> None:
    engine = engine_of(folder, LayerRange(0, 1), memory_bytes=60_000)
    with pytest.raises(OutOfMemory, match="GB more"):
        engine.prepare(WHOLE)


# ── sessions ───────────────────────────────────────────────────────────────────────────────────


def test_the_kv_ledger_is_exact(folder: Path) -> None:
    engine = engine_of(folder, memory_bytes=250_000)
    room = engine.kv_capacity_token_layers
    assert room == (250_000 - engine.weight_bytes) // engine.spec.kv_bytes_per_token
    fits = room // (16 * LAYERS)
    assert fits >= 2
    for number in range(fits):
        engine.open(session(number), WHOLE, 16)
    assert engine.kv_used_token_layers == fits * 16 * LAYERS
    with pytest.raises(Busy):
        engine.open(session(fits), WHOLE, 16)
    engine.open(session(0), WHOLE, 16)  # is open already
    engine.close(session(0))
    engine.close(session(0))
    engine.open(session(fits), WHOLE, 9)
    for number in range(fits + 1):
        engine.close(session(number))
    assert engine.kv_used_token_layers == 0


def test_a_session_that_wants_more_and_is_refused_keeps_what_it_has(folder: Path) -> None:
    engine = engine_of(folder, memory_bytes=250_000)
    engine.open(session(1), WHOLE, 16)
    engine.step(WHOLE, [row(1, 0, 2)], tokens=[3, 4])
    with pytest.raises(Busy):
        engine.open(session(1), WHOLE, 256)
    assert engine.length(session(1)) == 2


def test_no_session_is_longer_than_the_context(folder: Path) -> None:
    engine = engine_of(folder)
    with pytest.raises(PromptTooLong):
        engine.open(session(1), WHOLE, 257)


def test_a_write_at_a_position_is_idempotent_and_rolls_back(folder: Path) -> None:
    chain = Chain(folder, [((0, 6), (0, 6))])
    chain.open(session(1), session(2))
    straight = chain.logits([row(1, 0, 4)], [5, 6, 7, 8])
    chain.logits([row(2, 0, 2)], [5, 6])
    chain.logits([row(2, 2, 2)], [90, 91])  # taken back below
    chain.logits([row(2, 0, 2)], [5, 6])
    again = chain.logits([row(2, 2, 2)], [7, 8])
    assert torch.allclose(again, straight[2:], atol=1e-5)


def test_one_sessions_tokens_never_reach_another(folder: Path) -> None:
    chain = Chain(folder, [((0, 6), (0, 6))])
    chain.open(session(1), session(2), session(3))
    alone = chain.logits([row(1, 0, 3)], [5, 6, 7])
    beside = chain.logits([row(2, 0, 5), row(3, 0, 3)], [9, 9, 9, 9, 9, 5, 6, 7])[5:]
    assert torch.allclose(alone, beside, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "tokens", "error"),
    [
        ([row(1, 3, 1)], [5], ProtocolError),  # a gap
        ([row(1, 2, 15)], [5] * 15, ProtocolError),  # beyond the reservation
        ([row(9, 0, 1)], [5], NotServing),  # unknown session
        ([row(1, 2, 1), row(1, 2, 1)], [5, 5], ProtocolError),  # twice
        ([row(1, 2, 1)], [5, 6], ProtocolError),  # too many ids
        ([row(1, 2, 1)], [97], ProtocolError),  # not in the vocabulary
        ([], [], ProtocolError),
    ],
)
def test_a_step_that_cannot_be_is_refused_and_changes_nothing(
    folder: Path, rows: list[StepRow], tokens: list[int], error: type[Exception]
) -> None:
    engine = engine_of(folder)
    engine.open(session(1), WHOLE, 16)
    engine.step(WHOLE, [row(1, 0, 2)], tokens=[3, 4])
    with pytest.raises(error):
        engine.step(WHOLE, rows, tokens=tokens)
    assert engine.length(session(1)) == 2


@pytest.mark.parametrize(
    "hidden",
    [
        None,
        torch.zeros(2, 31),
        torch.zeros(3, 32),
        torch.zeros(2, 32, dtype=torch.long),
        torch.full((2, 32), float("nan")),
        torch.full((2, 32), float("inf")),
    ],
)
def test_poisoned_activations_are_refused(folder: Path, hidden: torch.Tensor | None) -> None:
    layers = LayerRange(3, 6)
    engine = engine_of(folder, layers)
    engine.open(session(1), layers, 16)
    with pytest.raises(PoisonedActivation):
        engine.step(layers, [row(1, 0, 2)], hidden=hidden)


# ── dtypes, wire, bad checkpoints ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_stays_near_float32(folder: Path, dtype: str) -> None:
    stages = [((0, 3), (0, 3)), ((3, 6), (3, 6))]
    exact, rough = Chain(folder, stages), Chain(folder, stages, EngineConfig(1 << 30, dtype=dtype))
    for chain in (exact, rough):
        chain.open(session(1))
    tokens = [5, 6, 7, 8]
    wanted, got = (chain.logits([row(1, 0, 4)], tokens).float() for chain in (exact, rough))
    assert got.dtype == torch.float32
    assert (got - wanted).abs().max() < 0.05 * wanted.abs().max()


@pytest.mark.parametrize("name", ["f32", "bf16", "f16"])
def test_activations_survive_the_wire_bit_for_bit(name: str) -> None:
    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[name]
    hidden = torch.randn(3, 8).to(kind)
    data = to_bytes(hidden)
    assert len(data) == 3 * 8 * kind.itemsize
    assert torch.equal(from_bytes(bytes(data), name, 3, 8), hidden)


@pytest.mark.parametrize(("name", "tokens", "width"), [("f32", 3, 9), ("i8", 3, 8), ("f32", 0, 8)])
def test_bytes_that_are_no_activations_are_refused(name: str, tokens: int, width: int) -> None:
    with pytest.raises(PoisonedActivation):
        from_bytes(bytes(3 * 8 * 4), name, tokens, width)


def broken(folder: Path, tmp_path: Path, change) -> Path:  # type: ignore[no-untyped-def]
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    return tmp_path


NORM = "model.layers.3.input_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NORM), "lacks"),
        (lambda tensors: tensors[NORM].fill_(float("nan")), "NaN"),
        (lambda tensors: tensors[NORM][3:4].fill_(float("-inf")), "infinite"),
        (lambda tensors: tensors.update({NORM: torch.ones(31)}), "shape"),
        (
            lambda tensors: tensors.update(
                {"model.layers.3.self_attn.q_proj.bias": torch.ones(32)}
            ),
            "unexpected",
        ),
        (lambda tensors: tensors.pop("model.embed_tokens.weight"), "no tensor"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    folder: Path,
    tmp_path: Path,
    change,
    message: str,  # type: ignore[no-untyped-def]
) -> None:
    path = broken(folder, tmp_path, change)
    engine = TorchEngine(path, manifest_of(path), EngineConfig(1 << 30))
    with pytest.raises(ModelError, match=message):
        engine.prepare(LayerRange(3, 6))
    assert engine.held == frozenset()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (8, "no weights for 2 of 8 layers, first 6"),
        (5, "weights for layer 5, its config.json for 5"),
    ],
)
def test_a_configuration_of_other_layers_is_refused(
    folder: Path, tmp_path: Path, layers: int, message: str
) -> None:
    path = broken(folder, tmp_path, lambda _: None)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    with pytest.raises(ModelError, match=message):
        TorchEngine(path, manifest_of(path), EngineConfig(1 << 30))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 64}, "shape"),
        ({"num_key_value_heads": 4}, "shape"),
        ({"hidden_act": "no such"}, "does not describe a model"),
    ],
)
def test_a_configuration_of_other_sizes_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = broken(folder, tmp_path, lambda _: None)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        TorchEngine(path, manifest_of(path), EngineConfig(1 << 30)).prepare(WHOLE)


def test_architectures_that_cannot_be_sliced_are_refused_by_name(tmp_path: Path) -> None:
    path = broken_config(
        tmp_path, '{"architectures": ["Gemma3nForCausalLM"], "model_type": "gemma3n_text"}'
    )
    with pytest.raises(ModelError, match=r"Gemma3nForCausalLM.*share KV"):
        read(path)
    path = broken_config(tmp_path, '{"architectures": ["BertModel"], "model_type": "bert"}')
    with pytest.raises(ModelError, match="encoder"):
        read(path)
    path = broken_config(tmp_path, '{"architectures": ["NewForCausalLM"], "model_type": "new"}')
    with pytest.raises(ModelError, match="not supported"):
        read(path)


def broken_config(folder: Path, text: str) -> Path:
    (folder / "config.json").write_text(text)
    return folder


def read(folder: Path) -> None:
    from helix_p2p.engine.architecture import read_architecture

    read_architecture(folder)


def test_a_session_that_grows_keeps_its_cache(folder: Path) -> None:
    chain = Chain(folder, [((0, 6), (0, 6))])
    chain.open(session(1), session(2), kv_tokens=32)
    straight = chain.logits([row(1, 0, 20)], list(range(20)))
    chain.open(session(2), kv_tokens=16)
    chain.logits([row(2, 0, 12)], list(range(12)))
    chain.open(session(2), kv_tokens=64)
    grown = chain.logits([row(2, 12, 8)], list(range(12, 20)))
    assert torch.allclose(grown, straight[12:], atol=1e-5)


def test_poison_on_the_wire_is_refused_before_it_joins_a_batch() -> None:
    hidden = torch.zeros(2, 8)
    hidden[1, 3] = float("-inf")
    with pytest.raises(PoisonedActivation):
        from_bytes(bytes(to_bytes(hidden)), "f32", 2, 8)


def test_a_slice_that_overflows_says_so(folder: Path) -> None:
    layers = LayerRange(3, 6)
    first = LayerRange(3, 5)
    for part in (first, layers):
        engine = TorchEngine(folder, manifest_of(folder), EngineConfig(1 << 30, dtype="f16"))
        engine.install(engine.prepare(layers))
        engine.open(session(1), part, 16)
        with torch.no_grad():
            for module in engine._layers.values():
                module.down.fill_(6e4)  # type: ignore[operator]
        with pytest.raises(PoisonedActivation):
            engine.step(part, [row(1, 0, 2, wanted=part == layers)], hidden=torch.ones(2, 32))


# ── memory that is not there ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        MemoryError(),
    ],
)
def test_a_step_without_memory_is_typed_and_costs_kv_room_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    engine = engine_of(folder, memory_bytes=400_000)
    engine.open(session(1), WHOLE, 16)
    room = engine.kv_capacity_token_layers
    run, failing = engine._runner.run, True

    def fails(*given):  # type: ignore[no-untyped-def]
        if failing:
            raise error
        return run(*given)

    monkeypatch.setattr(engine._runner, "run", fails)
    for _ in range(3):  # the stage tries again in halves
        with pytest.raises(OutOfMemory):
            engine.step(WHOLE, [row(1, 0, 2)], tokens=[3, 4])
    smaller = engine.kv_capacity_token_layers
    assert smaller == room - -(-(400_000 // 16) // engine.spec.kv_bytes_per_token)
    assert engine.length(session(1)) == 0
    failing = False
    assert engine.step(WHOLE, [row(1, 0, 2, wanted=True)], tokens=[3, 4]).tokens[0] is not None
    engine.retain(LayerRange(0, 2))
    engine.install(engine.prepare(WHOLE))
    assert engine.kv_capacity_token_layers == room


def test_an_error_that_is_not_about_memory_stays_what_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(folder)
    engine.open(session(1), WHOLE, 16)
    monkeypatch.setattr(
        engine._runner, "run", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ"))
    )
    room = engine.kv_capacity_token_layers
    with pytest.raises(RuntimeError, match="shapes differ"):
        engine.step(WHOLE, [row(1, 0, 2)], tokens=[3, 4])
    assert engine.kv_capacity_token_layers == room


def test_a_real_refusal_by_the_allocator_is_typed_and_the_engine_lives(folder: Path) -> None:
    engine = engine_of(folder, LayerRange(3, 6), memory_bytes=1 << 50)
    with pytest.raises(Busy, match="device refused"):  # 2^50 bytes: no machine has them
        engine._pool.open(session(1), LayerRange(3, 6), 1 << 40)
    assert engine.kv_capacity_token_layers == engine.kv_used_token_layers == 0
    with pytest.raises(Busy):
        engine.open(session(1), LayerRange(3, 6), 16)


def test_a_load_that_finds_no_memory_is_typed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    engine = engine_of(folder, LayerRange(0, 2))
    monkeypatch.setattr("helix_p2p.engine.slices._settle", no_room)
    with pytest.raises(OutOfMemory, match="no memory for 4 layers"):
        engine.prepare(WHOLE)
    assert engine.held == {0, 1}


# ── beginning with another session's cache ─────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "DeepseekV3", "Bloom", "GptOss"])
def test_a_session_that_begins_with_anothers_cache_equals_one_that_does_not(
    name: str, tmp_path: Path
) -> None:
    make_model(name, tmp_path)
    chain = Chain(tmp_path, [((0, 3), (0, 3)), ((2, 6), (3, 6))])
    chain.open(session(1), session(2))
    tokens = list(range(3, 23))
    wanted = chain.logits([row(1, 0, 20)], tokens)
    chain.logits([row(2, 0, 16)], [*tokens[:12], 90, 91, 92, 93])
    for engine, layers in chain.stages:
        engine.open(session(3), layers, 64, KvCopy(session(2), 12))
        assert engine.length(session(3)) == 12
    chain.logits([row(2, 8, 8)], [94] * 8)  # the other goes on by itself, and even back
    got = chain.logits([row(3, 10, 10)], tokens[10:])  # and a pipeline may begin earlier
    assert torch.allclose(got, wanted[10:], atol=1e-5 * max(1.0, float(wanted.abs().max())))


def test_a_cache_that_is_not_there_is_not_begun_with(folder: Path) -> None:
    engine = engine_of(folder)
    engine.open(session(1), WHOLE, 32)
    engine.step(WHOLE, [row(1, 0, 4)], tokens=[3, 4, 5, 6])
    for source, positions in ((session(9), 4), (session(1), 5)):
        with pytest.raises(Busy, match="gone"):
            engine.open(session(2), WHOLE, 32, KvCopy(source, positions))
