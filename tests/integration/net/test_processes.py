"""Two OS processes over real libp2p: killed, frozen, and of another swarm."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from helix_p2p.errors import HandshakeRefused, HelixError, PeerLost
from helix_p2p.identity import Identity
from helix_p2p.membership.handshake import Admission
from helix_p2p.membership.messages import Probe
from helix_p2p.net.channel import Membership
from helix_p2p.net.libp2p import Libp2pTransport
from helix_p2p.net.links import LinkPool
from helix_p2p.types import PeerId
from helix_p2p.wire.registry import Message
from tests.integration.net import far_peer

FAR = Identity(bytes([2]) * 32).peer_id


class Near:
    """Our end: a pool of links, and what it was told."""

    def __init__(self, transport: Libp2pTransport, addresses: list[str]) -> None:
        self.received: list[tuple[Message, bytes]] = []
        self.lost: list[tuple[float, HelixError]] = []
        self._change = asyncio.Event()
        self.links = LinkPool(
            transport,
            Membership.of(lambda: Admission("swarm", "m")),
            on_message=self._on_message,
            on_lost=self._on_lost,
            addresses=lambda _peer: addresses,
        )

    async def until(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._change.clear()
                await self._change.wait()

    def _on_message(self, _peer: PeerId, message: Message, payload: bytearray) -> None:
        self.received.append((message, bytes(payload)))
        self._change.set()

    def _on_lost(self, _peer: PeerId, error: HelixError) -> None:
        self.lost.append((now_s(), error))
        self._change.set()


@asynccontextmanager
async def far_process(swarm: str) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        far_peer.__file__,
        "2",
        swarm,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(far_peer.__file__).parents[3],
    )
    assert process.stdout is not None
    daemon = None
    try:
        async with asyncio.timeout(60):
            hello = json.loads(await process.stdout.readline())
        daemon = hello["daemon"]
        yield process, hello
    finally:
        if process.returncode is None:
            process.kill()
        await process.stdout.read()
        await process.wait()
        if daemon is not None:
            await gone(daemon, timeout_s=10.0)


@asynccontextmanager
async def near(addresses: list[str]) -> AsyncIterator[Near]:
    transport = await Libp2pTransport.start(Identity(bytes([1]) * 32))
    end = Near(transport, addresses)
    try:
        async with end.links:
            yield end
    finally:
        await transport.close()


async def test_a_killed_process_is_lost_at_once_and_its_daemon_goes() -> None:
    async with (
        far_process("swarm") as (process, hello),
        near(hello["addresses"]) as end,
    ):
        end.links.send(FAR, Probe(1), b"x" * 100_000)
        await end.until(lambda: end.received)
        assert end.received == [(Probe(1), b"x" * 100_000)]
        killed_s = now_s()
        process.kill()
        await end.until(lambda: end.lost)
        [(lost_s, error)] = end.lost
        assert lost_s - killed_s < 5.0  # 50 ms on an idle machine
        assert isinstance(error, PeerLost)
        await gone(hello["daemon"], timeout_s=20.0)


async def test_what_a_killed_process_leaves_is_swept_by_the_next_start(
    short_tmp: Path,
) -> None:
    async with far_process("swarm") as (process, hello):
        [left] = _names(short_tmp)
        async with near([]):
            assert len(_names(short_tmp)) == 2, "a living process's folder is its own"
            process.kill()
            await process.wait()
            assert left in _names(short_tmp)
        await gone(hello["daemon"], timeout_s=20.0)
    async with near([]):
        [ours] = _names(short_tmp)
        assert ours != left
    assert _names(short_tmp) == []


async def test_a_frozen_process_is_lost_in_seconds_and_found_again() -> None:
    async with (
        far_process("swarm") as (process, hello),
        near(hello["addresses"]) as end,
    ):
        end.links.send(FAR, Probe(1))
        await end.until(lambda: end.received)
        frozen_s = now_s()
        process.send_signal(signal.SIGSTOP)
        await end.until(lambda: end.lost)
        [(lost_s, error)] = end.lost
        assert 1.0 < lost_s - frozen_s < 10.0  # 3 s of silence, on however busy a machine
        assert "silent" in str(error)
        end.links.send(FAR, Probe(2))  # libp2p still opens streams to it
        await end.until(lambda: len(end.lost) == 2)
        assert "did not" in str(end.lost[1][1])
        process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(30):
            while (Probe(3), b"") not in end.received:
                # it wakes to streams that ended while it slept, and may drop a new one with them
                end.links.send(FAR, Probe(3))
                await asyncio.sleep(0.2)


async def test_a_stranger_delivers_no_byte_and_is_told_why() -> None:
    async with (
        far_process("other swarm") as (process, hello),
        near(hello["addresses"]) as end,
    ):
        end.links.send(FAR, Probe(1), b"secret")
        await end.until(lambda: end.lost)
        [(_s, error)] = end.lost
        assert isinstance(error, HandshakeRefused)
        assert "refused us" in str(error)
        process.send_signal(signal.SIGTERM)
        said = (await process.stdout.read()).decode()
        assert "message" not in said


async def gone(pid: int, *, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while _lives(pid):  # noqa: ASYNC110 - a process that is not our child cannot be awaited
            await asyncio.sleep(0.02)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def now_s() -> float:
    return asyncio.get_running_loop().time()
