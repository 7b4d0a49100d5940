"""Real libp2p on loopback: streams, and one clear error for each way to fail."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from helix_p2p.errors import ConfigError, PeerLost, PeerUnreachable
from helix_p2p.identity import Identity
from helix_p2p.net import libp2p
from helix_p2p.net.daemon_start import DAEMON_SLACK_S
from helix_p2p.net.libp2p import Libp2pTransport
from helix_p2p.net.transport import Stream

ANN, BEN, EVE = (Identity(bytes([n]) * 32) for n in (1, 2, 3))


@asynccontextmanager
async def transport(identity: Identity, **options: object) -> AsyncIterator[Libp2pTransport]:
    started = await Libp2pTransport.start(
        identity,
        **options,  # type: ignore[arg-type]
    )
    try:
        yield started
    finally:
        await started.close()


async def test_streams_are_authenticated_and_carry_large_buffers() -> None:
    async with transport(ANN) as ann, transport(BEN) as ben:
        remotes = []

        async def echo(stream: Stream) -> None:
            remotes.append(stream.remote)
            await stream.write(await stream.read_exactly(8), await stream.read_exactly(3_000_000))

        await ben.serve("/echo", echo)
        stream = await ann.open(BEN.peer_id, "/echo", addresses=ben.addresses)
        payload = os.urandom(3_000_000)
        writer = asyncio.create_task(stream.write(b"12345678", memoryview(payload)))
        assert await stream.read_exactly(8) == b"12345678"
        assert await stream.read_exactly(3_000_000) == payload
        await writer
        assert stream.remote == BEN.peer_id
        assert remotes == [ANN.peer_id]
        with pytest.raises(PeerLost):  # its handler is done
            await stream.read_exactly(1)
        with pytest.raises(PeerLost):
            await stream.write(b"x")
        await stream.close()


def timer_slack_ns(process: int | str) -> int:
    return int(Path(f"/proc/{process}/timerslack_ns").read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of Linux")
async def test_daemon_sleeps_through_its_own_short_timers_and_we_do_not() -> None:
    ours_ns = timer_slack_ns("self")
    ann, ben = await asyncio.gather(*(Libp2pTransport.start(it) for it in (ANN, BEN)))
    assert timer_slack_ns(ann.daemon_pid) == DAEMON_SLACK_S * 1e9
    assert timer_slack_ns(ben.daemon_pid) == DAEMON_SLACK_S * 1e9
    assert timer_slack_ns("self") == ours_ns < DAEMON_SLACK_S * 1e9
    await ann.close()
    await ben.close()


def within(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_close_leaves_no_daemon_and_no_socket_behind(short_tmp: Path) -> None:
    async with transport(ANN) as ann:
        pid = ann.daemon_pid
        assert os.getpgid(pid) != os.getpgid(0)  # Ctrl-C is ours; the daemon leaves last
        [folder] = within(short_tmp)
        assert folder.stat().st_mode & 0o777 == 0o700
        files = [path for path in within(folder) if path.is_file()]
        assert [path.read_bytes() for path in files] == [b""]  # a lock, and no key
    assert within(short_tmp) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_dial_failures_say_why() -> None:
    async with transport(ANN) as ann, transport(BEN) as ben:
        with pytest.raises(PeerUnreachable, match="protocols not supported"):
            await ann.open(BEN.peer_id, "/none", addresses=ben.addresses)
        with pytest.raises(PeerUnreachable, match="connection refused"):
            await ann.open(EVE.peer_id, "/x", addresses=["/ip4/127.0.0.1/tcp/1"])
        with pytest.raises(PeerUnreachable):
            await ann.open(EVE.peer_id, "/x", addresses=ben.addresses)  # somebody else is there


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = [f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"]
        with pytest.raises(ConfigError, match="port is in use"):
            async with transport(ANN, listen=listen):
                pass


async def test_one_of_several_bootstraps_suffices() -> None:
    with socket.socket() as mute:  # accepts and says nothing
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        silent = f"/ip4/127.0.0.1/tcp/{mute.getsockname()[1]}/p2p/{EVE.peer_id}"
        async with transport(ANN) as ann:
            bootstrap = [silent, *ann.addresses]
            async with asyncio.timeout(4), transport(BEN, bootstrap=bootstrap) as ben:
                await ben.serve("/x", _nothing)
                await (await ann.open(BEN.peer_id, "/x")).close()


async def test_no_bootstrap_answering_is_one_clear_line_in_time() -> None:
    dead = [f"/ip4/127.0.0.1/tcp/1/p2p/{EVE.peer_id}"]
    with pytest.raises(PeerUnreachable, match=r"no bootstrap node answered.*connection refused"):
        async with transport(ANN, bootstrap=dead):
            pass
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        silent = [f"/ip4/127.0.0.1/tcp/{mute.getsockname()[1]}/p2p/{EVE.peer_id}"]
        with pytest.raises(PeerUnreachable, match=r"did not answer in 0\.5 s"):
            async with transport(ANN, bootstrap=silent, bootstrap_timeout_s=0.5):
                pass


async def test_a_dead_daemon_is_noticed_and_breaks_nothing_else() -> None:
    async with transport(ANN) as ann, transport(BEN) as ben:
        await ben.serve("/wait", _wait)
        stream = await ann.open(BEN.peer_id, "/wait", addresses=ben.addresses)
        os.kill(ann.daemon_pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            with pytest.raises(PeerLost):
                await stream.read_exactly(1)
            await ann.wait_down()
        with pytest.raises(PeerUnreachable, match="daemon is gone"):
            await ann.open(BEN.peer_id, "/wait", addresses=ben.addresses)
        await stream.close()


async def test_one_peer_cannot_take_all_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libp2p, "STREAMS_PER_PEER", 2)
    async with transport(ANN) as ann, transport(BEN) as ben:
        await ben.serve("/wait", _wait)
        streams = [await ann.open(BEN.peer_id, "/wait", addresses=ben.addresses) for _ in range(3)]
        async with asyncio.timeout(5):
            ended = [asyncio.create_task(stream.read_exactly(1)) for stream in streams]
            done, waiting = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(waiting)) == (1, 2)
        for task in (*done, *waiting):
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        for stream in streams:
            await stream.close()


def test_the_same_under_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    uvloop.run(test_streams_are_authenticated_and_carry_large_buffers())


def test_hivemind_leaves_no_mark_on_the_process() -> None:
    """No torch, no log handler, no renamed level, no warning, no signal handler."""
    script = """
import logging, signal, sys
before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
from helix_p2p.net import lean_hivemind
lean_hivemind.load()
assert "torch" not in sys.modules
assert not logging.getLogger("hivemind").handlers and logging.getLogger("hivemind").propagate
assert logging.getLevelName(logging.WARNING) == "WARNING"
assert before == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("address", ["nonsense", "/ip4/127.0.0.1/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/"])
async def test_malformed_bootstrap_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        async with transport(ANN, bootstrap=[address]):
            pass


async def _nothing(stream: Stream) -> None:
    return None


async def _wait(stream: Stream) -> None:
    await asyncio.Event().wait()
