"""Whatever is wrong: one clear line, a status that is not 0, nothing half-written."""

import shutil
import socket
import time
from pathlib import Path

import pytest

from helix_p2p.identity import Identity
from helix_p2p.membership.invite import create_invite
from tests.e2e.conftest import MakeSwarm
from tests.e2e.lab import Lab

NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWEfY2TmhEWp1scTkNTgGcB6sBdaeicFJXJjeBmUpFMyg8"
ROOT = Identity(b"r" * 32)


def invite(*, expires_in_s: float = 3600.0) -> str:
    return create_invite(
        root=ROOT,
        invite_seed=b"i" * 32,
        addresses=[NOBODY],
        model_name="model",
        manifest_hash="",
        expires_unix_s=time.time() + expires_in_s,
    ).to_text()


@pytest.fixture
def half(tmp_path: Path, smollm2: Path) -> Path:
    """A download that stopped in the middle."""
    folder = tmp_path / "half"
    shutil.copytree(smollm2, folder)
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    return folder


@pytest.fixture
def encoder(tmp_path: Path, smollm2: Path) -> Path:
    """A whole model of a kind that cannot be served in layers."""
    folder = tmp_path / "encoder"
    shutil.copytree(smollm2, folder)
    (folder / "config.json").write_text(
        '{"architectures": ["BertModel"], "model_type": "bert", "num_hidden_layers": 2,'
        ' "vocab_size": 100, "max_position_embeddings": 64}'
    )
    return folder


async def complaint(made: Lab, *command: str) -> str:
    """The one line that a command that cannot work says."""
    running = await made.start("complaint", *command)
    status = await running.process.wait()
    await running.readers[1]
    assert status not in (0, -9), running.transcript()
    lines = [line for line in running.errors if line.startswith("helix-")]
    assert len(lines) == 1, running.transcript()
    assert "Traceback" not in running.transcript()
    return lines[0]


async def test_peer_that_cannot_join_says_why_in_one_line(
    tmp_path: Path, smollm2: Path, half: Path, encoder: Path
):
    made = Lab(tmp_path, smollm2)
    state = f"--state-dir={tmp_path / 'state'}"
    good, host = invite(), "--host=127.0.0.1"
    cases = {
        "no model folder at /nowhere": [good, "--model=/nowhere"],
        "truncated or corrupt": [good, f"--model={half}"],
        "BertModel": [good, f"--model={encoder}"],
        "checksum is wrong": [good[:-9], f"--model={smollm2}"],
        "expired on": [invite(expires_in_s=-60.0), f"--model={smollm2}"],
        "no bootstrap node answered": [good, f"--model={smollm2}"],
    }
    for words, options in cases.items():
        line = await complaint(made, "helix-peer", "join", *options, host, state)
        assert words in line
    left = {path.name for path in (tmp_path / "state").iterdir()}
    assert left <= {"identity.key", "lock"}
    await made.close()


async def test_bootstrap_node_on_a_taken_port_says_so(tmp_path: Path, smollm2: Path):
    made = Lab(tmp_path, smollm2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = await complaint(
            made,
            "helix-bootstrap",
            "run",
            f"--model={smollm2}",
            "--host=127.0.0.1",
            f"--port={port}",
            f"--state-dir={tmp_path / 'state'}",
        )
    assert f"port {port} is in use" in line
    await made.close()


async def test_client_is_told_what_is_wrong(swarm_of: MakeSwarm, tmp_path: Path, smollm2: Path):
    async with swarm_of() as made:
        # one peer that is far too small: the swarm says how much is missing, and so does the client
        small = await made.peer("small", 200)
        event = await small.wait_for(lambda e: e["event"] == "waiting", 90)
        assert "GB more are needed; 1 of 1 peers can hold a layer" in event["text"]
        guest = await made.guest()
        line = await complaint(made, "helix-p2p", "chat", guest, "--prompt=hello", "--timeout=8")
        assert "GB more are needed; 1 of 1 peers" in line
        line = await complaint(made, "helix-p2p", "generate", guest, f"--prompt={'word ' * 9000}")
        assert "the model's context holds 8192" in line
        line = await complaint(made, "helix-p2p", "chat", guest[:-5], "--prompt=hello")
        assert "checksum is wrong" in line
