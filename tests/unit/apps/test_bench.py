"""`helix-peer bench` shows, and remembers, what a join would announce."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from helix_p2p.engine import profile
from helix_p2p.errors import ConfigError
from helix_p2p.node.config import PeerConfig
from helix_p2p.node.lending import lend
from helix_peer.cli import cli
from tests.unit.engine.tiny import make_model, manifest_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for budget in ("BUDGET_S", "BENCH_BUDGET_S"):
        monkeypatch.setattr(profile, budget, 0.001)
    make_model("Llama", tmp_path / "tiny")
    return tmp_path / "tiny"


def bench(folder: Path, *more: str) -> str:
    words = ["bench", "-m", str(folder), "--device", "cpu", "--max-memory", "1MB", *more]
    answer = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert answer.exit_code == 0
    return answer.stdout


def test_bench_prints_the_profile_that_join_announces(folder: Path, tmp_path: Path) -> None:
    said = json.loads(bench(folder, "--json"))
    loan = lend(PeerConfig(tmp_path, device="cpu", memory_bytes=10**6), folder, manifest_of(folder))
    assert [tuple(point) for point in said["speed"]["decode"]] == list(loan.speed.decode)
    assert said["figures"]["load_bytes_per_s"] > 0
    assert [holding["layers"] for holding in said["holdings"]] == [1, 2, 3, 4, 5, 6]
    first, *_, last = said["holdings"]
    assert first["kv_tokens"] == (10**6 - said["layer_bytes"]) // said["kv_bytes_per_token"]
    assert first["kv_tokens"] > last["kv_tokens"] > 0
    assert min(holding["tokens_per_s"] for holding in said["holdings"]) > 0  # measured


def test_bench_is_a_table_for_people(folder: Path) -> None:
    quick = bench(folder, "--quick")
    assert "announced: one layer" in quick
    assert "T(k): k layers held" in quick
    assert "after 128" not in quick
    assert "after 128" in bench(folder)


def test_bench_of_a_quantised_model_has_room_for_more(folder: Path) -> None:
    plain, small = (
        json.loads(bench(folder, "--quick", "--json", "--quantization", how))
        for how in ("none", "int8")
    )
    assert small["layer_bytes"] < plain["layer_bytes"]
    assert small["holdings"][5]["kv_tokens"] > plain["holdings"][5]["kv_tokens"]
    assert small["held_in"] == "f32 int8"


def test_bench_on_a_device_that_is_not_there_says_so(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no cuda:99"):
        CliRunner().invoke(
            cli, ["bench", "-m", str(folder), "--device", "cuda:99"], catch_exceptions=False
        )
