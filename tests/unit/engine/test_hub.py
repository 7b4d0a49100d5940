"""What a hub gave is what is served: rot in a downloaded model is found, and fetched again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helix_p2p.engine.hub import find_model
from helix_p2p.errors import ModelError
from tests.hub import local_hub
from tests.unit.engine.tiny import make_model

CHILD = """
import json, sys
from pathlib import Path
from helix_p2p.engine.hub import find_model
from helix_p2p.errors import ModelError

cache = Path(sys.argv[1])
model = find_model("helix/tiny")
weights, config = model.folder / "model.safetensors", model.folder / "config.json"
truth = model.manifest(cache=cache).manifest_hash

def flip(path, at):
    data = bytearray(path.resolve().read_bytes())
    data[at] ^= 1
    path.resolve().write_bytes(data)

said = {"name": model.name, "same": []}
for path, at in ((weights, -5), (weights, 2), (config, 5)):
    flip(path, at)
    said["same"].append(model.manifest(cache=cache).manifest_hash == truth)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model("Llama", folder)
    return folder


def run(code: str, hub: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own: the hub's client reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code, str(home / "hashes")]
    return subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )


def test_a_downloaded_file_that_rots_is_fetched_again(original: Path, tmp_path: Path) -> None:
    with local_hub(original) as hub:
        done = run(CHILD, hub.endpoint, tmp_path / "home")
    assert done.stdout.strip() == '{"name": "helix/tiny", "same": [true, true, true]}', done.stderr
    assert hub.served["model.safetensors"] == 3
    assert hub.served["config.json"] == 2


def test_rot_is_said_where_the_hub_is_gone(original: Path, tmp_path: Path) -> None:
    with local_hub(original) as hub:
        assert run(CHILD, hub.endpoint, tmp_path / "home").returncode == 0
        weights = next((tmp_path / "home").glob("**/snapshots/*/model.safetensors"))
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.resolve().write_bytes(data)
    done = run(CHILD, hub.endpoint, tmp_path / "home")
    assert (
        "model.safetensors of helix/tiny is corrupt, and the hub cannot be reached" in done.stderr
    )


def test_a_folder_of_the_persons_own_is_never_fetched(original: Path) -> None:
    found = find_model(str(original))
    assert found.refetch is None
    assert found.name == original.name


def test_a_name_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder at"):
        find_model(str(tmp_path / "nothing"))
