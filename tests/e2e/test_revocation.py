"""The operator puts a peer and a guest out of a running swarm: within seconds, and for good."""

import asyncio
import json
import time

import pytest

from helix_p2p import Swarm
from helix_p2p.errors import HelixError
from helix_p2p.membership.invite import read_invite
from tests.e2e.conftest import MakeSwarm
from tests.e2e.lab import Event, Lab
from tests.e2e.test_commands import said

SOON_S = 10.0


def lost(peer: str) -> object:
    def what(event: Event) -> bool:
        return event["event"] == "member-lost" and event["peer"] == peer

    return what


async def revoke(lab: Lab, target: str) -> dict[str, object]:
    folder = f"--state-dir={lab.folder / 'bootstrap'}"
    return dict(json.loads(await said("helix-bootstrap", "revoke", target, folder, "--json")))


async def members(lab: Lab, name: str) -> set[str]:
    command = {"bootstrap": "helix-bootstrap"}.get(name, "helix-peer")
    page = await said(command, "status", "--json", f"--state-dir={lab.folder / name}")
    return {member["peer"] for member in json.loads(page)["members"]}


async def test_revoked_peer_is_out_within_seconds_and_over_restarts(swarm_of: MakeSwarm) -> None:
    async with swarm_of(900, 900) as lab:
        first, second = lab.peer_id("p0"), lab.peer_id("p1")
        assert second in await members(lab, "p0")
        begun_s = time.monotonic()
        listed = await revoke(lab, second)
        assert listed["peers"] == [second]
        for name in ("bootstrap", "p0"):
            await lab.commands[name].wait_for(lost(second), SOON_S)  # type: ignore[arg-type]
        told = await lab.commands["p1"].wait_for(lambda e: e["event"] == "expelled", SOON_S)
        assert "revoked" in told["text"]
        assert time.monotonic() - begun_s < SOON_S
        assert second not in await members(lab, "p0")

        async with Swarm.connect(await lab.guest()) as swarm:
            for _ in range(3):
                answer = await swarm.chat([{"role": "user", "content": "Hi"}], max_tokens=2)
                assert {peer for peer, _ in answer.pipeline} == {first}

        await lab.stop("p1")
        again = await lab.restart("p1")
        assert await again.process.wait() == 1, "it kept the list itself"
        assert "the swarm's operator revoked this peer" in again.transcript()

        for name in ("p0", "bootstrap"):
            await lab.stop(name)
        (lab.folder / "p1" / "revocations").unlink()  # it pretends not to know
        port = read_invite(lab.invite).addresses[0].split("/")[4]
        boot = await lab.bootstrap(f"--port={port}")
        await lab.restart("p0")
        await lab.serving("p0")
        stranger = await lab.restart("p1")
        await stranger.wait_for(lambda e: e["event"] == "joined", 60)
        await asyncio.sleep(5)  # a chance to be let in, which it must not get
        assert not any(e.get("peer") == second for e in boot.events), boot.transcript()
        for name in ("bootstrap", "p0"):
            assert second not in await members(lab, name)


async def test_revoked_guest_is_cut_off_in_the_middle_of_its_answer(swarm_of: MakeSwarm) -> None:
    async with swarm_of(900) as lab, Swarm.connect(await lab.guest()) as swarm:
        stream = swarm.chat_stream(
            [{"role": "user", "content": "Count to one thousand."}],
            max_tokens=2000,
            ignore_eos=True,
        )
        seen, revoked_s = 0, 0.0

        async def read() -> None:
            nonlocal seen, revoked_s
            async with stream:
                async for piece in stream:
                    seen += len(piece.tokens)
                    if seen > 5 and not revoked_s:
                        revoked_s = time.monotonic()
                        await revoke(lab, await lab.guest())

        with pytest.raises(HelixError, match="revoked"):
            await read()
        assert time.monotonic() - revoked_s < SOON_S
        assert 5 < seen < 2000
