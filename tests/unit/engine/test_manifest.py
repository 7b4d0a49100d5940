import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helix_p2p.engine.manifest import read_manifest
from helix_p2p.errors import ModelError

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "vocab_size": 7,
    "max_position_embeddings": 64,
}


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "notes.txt").write_text("not part of the model")
    save_file({"a": torch.ones(3)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "model")


def manifest(folder: Path, **given: object) -> object:
    return read_manifest(folder, cache=folder.parent / "hashes", **given)  # type: ignore[arg-type]


def test_a_manifest_lists_what_makes_the_model(folder: Path) -> None:
    made = read_manifest(folder, cache=folder.parent / "hashes")
    assert (made.name, made.architecture, made.layers) == ("model", "LlamaForCausalLM", 2)
    assert (made.vocab_size, made.context_tokens) == (7, 64)
    assert [f.name for f in made.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert [f.name for f in made.shared_files()] == ["config.json", "tokenizer.json"]


def test_equal_contents_in_another_folder_have_the_same_hash(tmp_path: Path) -> None:
    one, two = (make_folder(tmp_path / name) for name in ("one", "two"))
    cache = tmp_path / "hashes"
    assert read_manifest(one, cache=cache).manifest_hash == (
        read_manifest(two, cache=cache).manifest_hash
    )


def test_a_changed_weight_changes_the_hash(folder: Path) -> None:
    cache = folder.parent / "hashes"
    before = read_manifest(folder, cache=cache).manifest_hash
    save_file({"a": torch.tensor([1.0, 1.0, 2.0])}, folder / "model.safetensors")
    assert read_manifest(folder, cache=cache).manifest_hash != before


def test_hashes_are_remembered(folder: Path) -> None:
    cache = folder.parent / "hashes"
    told: list[str] = []
    first = read_manifest(folder, cache=cache, progress=lambda file, *_: told.append(file))
    assert set(told) == {"config.json", "model.safetensors", "tokenizer.json"}
    told.clear()
    again = read_manifest(folder, cache=cache, progress=lambda file, *_: told.append(file))
    assert again == first
    assert told == []


def test_a_context_ends_where_rotary_embeddings_would_change(folder: Path) -> None:
    rope = {"type": "longrope", "long_factor": [2.0], "short_factor": [1.0]}
    changes = {"rope_scaling": rope, "original_max_position_embeddings": 16}
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    assert read_manifest(folder, cache=folder.parent / "hashes").context_tokens == 16


def test_a_cache_that_is_garbage_is_no_error(folder: Path) -> None:
    cache = folder.parent / "hashes"
    cache.write_bytes(b"\x00garbage")
    assert read_manifest(folder, cache=cache).files


@pytest.mark.parametrize("cut", [1, 8, 30])
def test_a_truncated_weight_file_is_refused(folder: Path, cut: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ModelError, match="truncated"):
        manifest(folder)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        manifest(tmp_path / "nowhere")


def test_a_missing_shard_is_refused_by_name(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"half-downloaded.*model-00002.safetensors"):
        manifest(folder)


def test_an_index_cannot_lead_out_of_the_folder(folder: Path) -> None:
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="outside"):
        manifest(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError, match="pickled"):
        manifest(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot read"), ("[]", "not a JSON object"), ("{}", "architecture")],
)
def test_a_bad_configuration_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        manifest(folder)
