"""What people get wrong ends in one line (what, why, what to do) and changes nothing."""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helix_p2p.identity import Identity
from helix_p2p.membership.credentials import ALL_ROLES
from helix_p2p.membership.invite import create_invite
from tests.e2e.lab import lab

BIN = Path(sys.executable).parent
NOBODY = f"/ip4/127.0.0.1/tcp/9/p2p/{Identity(bytes([5]) * 32).peer_id}"


def invite(expires_unix_s: float) -> str:
    return create_invite(
        root=Identity(bytes([1]) * 32),
        invite_seed=bytes([2]) * 32,
        addresses=(NOBODY,),
        model_name="tiny",
        manifest_hash="ab" * 32,
        expires_unix_s=expires_unix_s,
        roles=ALL_ROLES,
    ).to_text()


def refused(*command: str, verbose: bool = False) -> str:
    """Run a command that must fail; its last line."""
    ended = subprocess.run(
        [BIN / command[0], *command[1:], *(["--verbose"] if verbose else [])],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert ended.returncode in (1, 2), ended
    lines = ended.stderr.rstrip().splitlines()
    assert verbose or len(lines) == 1, ended.stderr
    assert lines[-1].startswith(f"{command[0]}: ")
    if verbose:
        assert "Traceback" in ended.stderr
    return lines[-1]


@pytest.fixture
def bad_models(tmp_path: Path, smollm2: Path) -> dict[str, Path]:
    missing, half, alien = (tmp_path / name for name in ("missing", "half", "alien"))
    half.mkdir()
    alien.mkdir()
    (half / "config.json").write_bytes((smollm2 / "config.json").read_bytes())
    for path in smollm2.iterdir():
        (alien / path.name).symlink_to(path)
    (alien / "config.json").unlink()
    config = json.loads((smollm2 / "config.json").read_text())
    config |= {"model_type": "gemma3n", "architectures": ["Gemma3nForCausalLM"]}
    (alien / "config.json").write_text(json.dumps(config))
    return {"missing": missing, "half": half, "alien": alien}


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("missing", "no model folder"),
        ("half", "is the download finished?"),
    ],
)
def test_model_that_cannot_be_served(
    tmp_path: Path, bad_models: dict[str, Path], model: str, complaint: str
) -> None:
    state = tmp_path / "state"
    line = refused(
        *("helix-bootstrap", "run", "--host=127.0.0.1", "--port=0"),
        *(f"--model={bad_models[model]}", f"--state-dir={state}"),
    )
    assert complaint in line
    assert {path.name for path in state.iterdir()} <= {"lock"}, "something was half-written"


def test_architecture_that_cannot_be_cut_is_refused_by_name(
    tmp_path: Path, bad_models: dict[str, Path]
) -> None:
    line = refused(
        *("helix-peer", "join", f"--bootstrap={NOBODY}", f"--model={bad_models['alien']}"),
        *("--host=127.0.0.1", f"--state-dir={tmp_path / 'state'}"),
    )
    assert "emma3n" in line


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hello", "begins with helix1"),
        (invite(4e9)[:-20], "part of it is missing"),
        (invite(1e9), "expired on 2001-09-09"),
    ],
)
def test_invite_that_cannot_be_used(
    tmp_path: Path, smollm2: Path, text: str, complaint: str
) -> None:
    for command in (
        ["helix-peer", "join", text, f"--model={smollm2}", f"--state-dir={tmp_path / 's'}"],
        ["helix-p2p", "chat", text, "--prompt=hello"],
    ):
        if command[0] == "helix-p2p" and text == "hello":
            complaint = "neither an invite nor an address"
        assert complaint in refused(*command)


def test_invite_of_other_weights_names_both(tmp_path: Path, smollm2: Path) -> None:
    line = refused(
        *("helix-peer", "join", invite(4e9), f"--model={smollm2}"),
        *("--host=127.0.0.1", f"--state-dir={tmp_path / 's'}"),
    )
    assert "is not the one that the swarm serves" in line


def test_bootstrap_that_does_not_answer(smollm2: Path) -> None:
    line = refused("helix-p2p", "chat", NOBODY, "--prompt=hello", f"--model={smollm2}")
    assert "12D3KooW" in line or "no " in line


def test_port_in_use(tmp_path: Path, smollm2: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(
            *("helix-bootstrap", "run", "--host=127.0.0.1", f"--port={port}"),
            *(f"--model={smollm2}", f"--state-dir={tmp_path / 's'}"),
        )
    assert f"port {port} is in use" in line
    assert not (tmp_path / "s").exists()


def test_trace_comes_with_verbose(tmp_path: Path) -> None:
    line = refused(
        *("helix-bootstrap", "run", f"--model={tmp_path / 'no'}", f"--state-dir={tmp_path / 's'}"),
        verbose=True,
    )
    assert "no model folder" in line


async def test_swarm_without_room_for_the_model_says_how_much_is_missing(
    tmp_path: Path, smollm2: Path
) -> None:
    async with lab(tmp_path, smollm2) as made:
        await made.bootstrap()
        said = [
            (await made.peer(name, 200)).wait_for(lambda e: e["event"] == "waiting")
            for name in ("a", "b")
        ]
        waits = [asyncio.create_task(one) for one in said]  # the one that plans says it
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        text = done.pop().result()["text"]
        assert "GB more are needed" in text
        assert "of 2 peers" in text


async def test_prompt_longer_than_the_context_is_refused_before_it_is_sent(
    tmp_path: Path, smollm2: Path
) -> None:
    async with lab(tmp_path, smollm2) as made:
        await made.bootstrap()
        ended = await asyncio.to_thread(
            subprocess.run,
            [BIN / "helix-p2p", "generate", made.invite, "--prompt=-", f"--model={smollm2}"],
            input="word " * 20_000,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 2
        assert "the model's context holds" in ended.stderr
