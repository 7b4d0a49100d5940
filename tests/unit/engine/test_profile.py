from pathlib import Path

import pytest

from helix_p2p.engine import profile
from helix_p2p.engine.hardware import DeviceKind, find_hardware
from helix_p2p.engine.torch_engine import EngineConfig
from helix_p2p.errors import ConfigError
from tests.unit.engine.tiny import make_model, manifest_of


@pytest.mark.parametrize("name", ["Llama", "Bloom", "DeepseekV3"])
def test_speed_is_measured_without_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(name, tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    monkeypatch.setattr(profile, "BUDGET_S", 0.001)
    monkeypatch.setattr(profile, "CONTEXT_TOKENS", 32)
    told: list[tuple[int, int]] = []
    measured = profile.measure_speed(
        tmp_path, EngineConfig(1 << 30), progress=lambda *at: told.append(at)
    )
    assert [batch for batch, _ in measured.decode] == list(profile.DECODE_BATCHES)
    assert measured.decode_s(32) >= measured.decode_s(1) > 0
    assert measured.prefill_s(128) >= measured.prefill_s(32) > 0
    assert measured.head_s > 0
    assert told[-1] == (7, 7)


def test_a_speed_once_measured_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    make_model("Llama", folder)
    monkeypatch.setattr(profile, "BUDGET_S", 0.001)
    given = {"cache": tmp_path / "speed"}
    manifest, config = manifest_of(folder), EngineConfig(1 << 30)
    first = profile.speed_of(folder, manifest, config, device_name="a CPU", **given)
    monkeypatch.setattr(profile, "measure_speed", lambda *_, **__: pytest.fail("measured again"))
    assert profile.speed_of(folder, manifest, config, device_name="a CPU", **given) == first
    with pytest.raises(pytest.fail.Exception):
        profile.speed_of(folder, manifest, config, device_name="another CPU", **given)


def test_the_cpu_is_always_found() -> None:
    hardware = find_hardware("cpu")
    assert (hardware.kind, hardware.device, hardware.dtype) == (DeviceKind.CPU, "cpu", "f32")
    assert 0 < hardware.usable_bytes < hardware.memory_bytes


@pytest.mark.parametrize("wanted", ["cuda:99", "tpu", "cuda:x"])
def test_a_device_that_is_not_there_is_refused(wanted: str) -> None:
    with pytest.raises(ConfigError):
        find_hardware(wanted)


def test_a_bench_measures_the_rest_and_sharpens_the_next_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    make_model("Llama", folder)
    for budget in ("BUDGET_S", "BENCH_BUDGET_S"):
        monkeypatch.setattr(profile, budget, 0.001)
    manifest, config = manifest_of(folder), EngineConfig(1 << 30)
    given = {"device_name": "a CPU", "cache": tmp_path / "speed"}
    told: list[tuple[int, int]] = []
    quick = profile.measurement_of(folder, manifest, config, quick=True, **given)
    assert quick.figures is None
    whole = profile.measurement_of(
        folder, manifest, config, progress=lambda *at: told.append(at), **given
    )
    assert told[-1][0] == told[-1][1] == len(told)
    figures = whole.figures
    assert figures is not None
    assert {point.context_tokens for point in figures.decode} == {128}  # the context is 256
    assert all(point.layer_s > 0 for point in (*figures.decode, *figures.prefill))
    assert figures.load_bytes_per_s is not None
    assert figures.load_bytes_per_s > 0
    monkeypatch.setattr(profile, "measure_speed", lambda *_, **__: pytest.fail("measured again"))
    assert profile.speed_of(folder, manifest, config, **given) == whole.speed
    assert profile.measurement_of(folder, manifest, config, quick=True, **given) == whole


def test_measuring_again_replaces_what_was_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    make_model("Llama", folder)
    monkeypatch.setattr(profile, "BUDGET_S", 0.001)
    manifest, config = manifest_of(folder), EngineConfig(1 << 30)
    given = {"device_name": "a CPU", "cache": tmp_path / "speed", "quick": True}
    first = profile.measurement_of(folder, manifest, config, **given)
    again = profile.measurement_of(folder, manifest, config, again=True, **given)
    assert again.speed != first.speed
    assert profile.measurement_of(folder, manifest, config, **given) == again
