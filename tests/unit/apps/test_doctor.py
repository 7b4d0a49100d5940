"""doctor finds what is in the way, goes on after it, and changes nothing."""

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from helix_p2p.identity import Identity
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.invite import create_invite
from helix_peer.cli import cli

ROOT = Identity(bytes([1]) * 32)
NOBODY = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity(bytes([2]) * 32).peer_id}"


def invite(*roles: Role, expires_unix_s: float = 4e9) -> str:
    return create_invite(
        root=ROOT,
        invite_seed=bytes([3]) * 32,
        addresses=(NOBODY,),
        model_name="tiny",
        manifest_hash="ab" * 32,
        expires_unix_s=expires_unix_s,
        roles=roles,
    ).to_text()


def examine(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    state = str(tmp_path / "state")
    ended = CliRunner().invoke(
        cli,
        ["doctor", "--json", "--device=cpu", "--state-dir", state, *arguments],
        standalone_mode=False,
    )
    assert ended.exception is None
    findings = [json.loads(line) for line in ended.stdout.splitlines()]
    assert isinstance(ended.return_value, int)
    return ended.return_value, {finding["about"]: finding for finding in findings}


def test_machine_that_can_serve_has_nothing_in_the_way(tmp_path: Path) -> None:
    status, found = examine(tmp_path)
    assert status == 0, found
    assert {"python", "torch", "device", "disk", "port", "libp2p"} <= found.keys()
    assert not list(tmp_path.iterdir()), "doctor changed something"


def test_port_in_use_and_bootstrap_that_is_silent_are_both_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, found = examine(tmp_path, "--host=127.0.0.1", "--port", port, "--bootstrap", NOBODY)
    assert status == 1
    assert found["port"]["verdict"] == "bad"
    assert found["bootstrap"]["verdict"] == "bad"
    assert found["torch"]["verdict"] == "good"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "begins with helix1"),
        (invite(Role.PEER, expires_unix_s=1000.0), "expired"),
        (invite(Role.CLIENT), "only for client"),
    ],
)
def test_invite_that_cannot_be_used_is_found(tmp_path: Path, text: str, complaint: str) -> None:
    status, found = examine(tmp_path, text)
    assert status == 1
    assert complaint in found["invite"]["said"]


def test_model_folder_that_is_incomplete_is_found(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    status, found = examine(tmp_path, "--model", str(tmp_path / "model"))
    assert status == 1
    assert found["model"]["verdict"] == "bad"


def test_device_that_is_not_there_is_found(tmp_path: Path) -> None:
    status, found = examine(tmp_path, "--device=cuda:99")
    assert status == 1
    assert found["device"]["verdict"] == "bad"
