"""The commands around a running swarm: status here and elsewhere, invites, the polite end."""

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from helix_p2p.membership.invite import read_invite
from tests.e2e.conftest import MakeSwarm
from tests.e2e.lab import BIN


async def said(*command: str) -> str:
    """What a command prints that is to succeed."""
    ended = await asyncio.to_thread(
        subprocess.run,
        [BIN / command[0], *command[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


async def test_status_invite_and_end_of_a_running_swarm(
    swarm_of: MakeSwarm, tmp_path: Path
) -> None:
    async with swarm_of(900) as made:
        here = json.loads(
            await said("helix-peer", "status", "--json", f"--state-dir={tmp_path / 'p0'}")
        )
        assert (here["role"], here["state"], here["holds"]) == ("peer", "serving", [0, 30])
        assert here["plan"]["placement"] == [{"peer": here["peer"], "start": 0, "end": 30}]

        elsewhere: dict[str, Any] = json.loads(
            await said(
                *("helix-peer", "status", here["addresses"][0], f"--invite={made.invite}"),
                "--json",
            )
        )
        assert elsewhere["peer"] == here["peer"]

        page = await said("helix-bootstrap", "status", f"--state-dir={tmp_path / 'bootstrap'}")
        assert "p0" in page
        assert "[0, 30)" in page
        assert "tokens/s" in page

        line = await said(
            *("helix-bootstrap", "invite", f"--state-dir={tmp_path / 'bootstrap'}"),
            "--role=client",
        )
        answer = await said(
            *("helix-p2p", "chat", line.strip(), "--prompt=Say hello.", "--max-tokens=4")
        )
        assert answer.strip()
        assert read_invite(line).swarm == here["swarm"]

        assert await made.stop("p0") == 0
        events = [event["event"] for event in made.commands["p0"].events]
        assert "leaving" in events
        assert not (tmp_path / "p0" / "status.sock").exists()


async def test_same_folder_is_not_lent_twice(swarm_of: MakeSwarm, tmp_path: Path) -> None:
    async with swarm_of(900) as made:
        second = await made.start(
            "second",
            *("helix-peer", "join", made.invite, f"--model={made.model}", "--host=127.0.0.1"),
            f"--state-dir={tmp_path / 'p0'}",
        )
        async with asyncio.timeout(60):
            assert await second.process.wait() == 2
        assert "another process uses the state folder" in second.transcript()
        made.commands["p0"].process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await made.commands["p0"].process.wait() == 0
