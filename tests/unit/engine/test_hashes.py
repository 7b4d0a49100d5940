"""Whatever part of a weight file changes, and however quietly, its layer is not loaded."""

import os
import shutil
from pathlib import Path

import pytest

from helix_p2p.cluster.manifest import Manifest
from helix_p2p.engine.hashes import HashCache, Refetch, WeightGuard
from helix_p2p.engine.header import read_header
from helix_p2p.engine.torch_engine import EngineConfig, TorchEngine
from helix_p2p.errors import ModelError
from helix_p2p.types import LayerRange
from tests.unit.engine.tiny import LAYERS, make_model, manifest_of

WHOLE = LayerRange(0, LAYERS)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    make_model("Llama", folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def engine_of(folder: Path, manifest: Manifest, refetch: Refetch | None = None) -> TorchEngine:
    guard = WeightGuard(folder, manifest, cache=folder / "hashes", refetch=refetch)
    return TorchEngine(folder, manifest, EngineConfig(1 << 30), guard)


def flip(path: Path, place: int, *, quietly: bool) -> None:
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    if quietly:  # as a disk does it
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


@pytest.mark.parametrize("quietly", [True, False])
@pytest.mark.parametrize("part", range(24))
def test_every_region_that_changes_is_found_before_its_layers_are_held(
    folder: Path, part: int, quietly: bool
) -> None:
    manifest = manifest_of(folder)
    engine = engine_of(folder, manifest)
    size = weights(folder).stat().st_size
    flip(weights(folder), (size - 1) * part // 23, quietly=quietly)
    with pytest.raises(ModelError):
        engine.prepare(WHOLE)
    assert engine.held == frozenset()


def test_only_the_layers_that_changed_are_lost(folder: Path) -> None:
    manifest = manifest_of(folder)
    header = read_header(weights(folder))
    start, _ = header["model.layers.4.mlp.up_proj.weight"]
    data = weights(folder).stat().st_size - max(end for _, end in header.values())
    engine = engine_of(folder, manifest)
    flip(weights(folder), data + start + 17, quietly=True)
    engine.install(engine.prepare(LayerRange(0, 4)))
    with pytest.raises(ModelError, match=r"model\.layers\.4\.mlp\.up_proj\.weight has changed"):
        engine.prepare(WHOLE)
    assert engine.held == frozenset(range(4))


def test_a_corrupt_file_is_fetched_again_and_then_loaded(folder: Path, original: Path) -> None:
    manifest = manifest_of(folder)
    fetched: list[str] = []

    def fetch(file: str) -> None:
        fetched.append(file)
        shutil.copyfile(original / file, folder / file)

    engine = engine_of(folder, manifest, fetch)
    flip(weights(folder), weights(folder).stat().st_size - 5, quietly=True)
    engine.install(engine.prepare(WHOLE))
    assert fetched == ["model.safetensors"]
    assert engine.held == frozenset(WHOLE)


def test_a_file_that_is_corrupt_again_is_refused(folder: Path) -> None:
    manifest = manifest_of(folder)
    fetched: list[str] = []
    engine = engine_of(folder, manifest, fetched.append)
    flip(weights(folder), weights(folder).stat().st_size - 5, quietly=True)
    with pytest.raises(ModelError, match=r"SHA-256 is not the one in the model's manifest"):
        engine.prepare(WHOLE)
    assert fetched == ["model.safetensors"]


def test_a_file_put_back_is_taken_again(folder: Path, original: Path) -> None:
    manifest = manifest_of(folder)
    engine = engine_of(folder, manifest)
    flip(weights(folder), weights(folder).stat().st_size - 5, quietly=False)
    with pytest.raises(ModelError):
        engine.prepare(WHOLE)
    shutil.copyfile(original / "model.safetensors", weights(folder))
    engine.install(engine.prepare(WHOLE))
    assert engine.held == frozenset(WHOLE)


def test_a_lost_cache_only_costs_hashing_again(folder: Path) -> None:
    manifest = manifest_of(folder)
    (folder / "hashes").write_text("garbage")
    engine = engine_of(folder, manifest)
    engine.install(engine.prepare(WHOLE))
    path = weights(folder)
    assert set(HashCache(folder / "hashes").of(path).tensors) == set(read_header(path))


def test_a_file_that_has_gone_is_a_model_error(folder: Path) -> None:
    engine = engine_of(folder, manifest_of(folder))
    weights(folder).unlink()
    with pytest.raises(ModelError):
        engine.prepare(WHOLE)
