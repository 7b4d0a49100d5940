"""The client as users start it, over real libp2p, against a peer that generates by rote."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from helix_p2p import Swarm
from helix_p2p.errors import PeerUnreachable
from helix_p2p.net.libp2p import Libp2pTransport
from tests.unit.client.fake_swarm import FakePeer, FakeSwarm, answer_to

COMMAND = (sys.executable, "-c", "from helix_p2p.cli.main import main; main()")
NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWGTSzhShkoYo5Sc1wpKjanGDC7f9q7Bgy8mtqbVjSgzfw"


@pytest.fixture
async def peer(tmp_path: Path, short_tmp: Path) -> AsyncIterator[FakePeer]:
    fake = FakeSwarm(tmp_path / "model")
    transport = await Libp2pTransport.start(fake.identity_of(1))
    try:
        yield await fake.add(transport=transport)
    finally:
        await transport.close()


async def start(*arguments: str, cache: Path, **options: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        **options,  # type: ignore[arg-type]
    )


def daemons_of(process: asyncio.subprocess.Process) -> list[int]:
    """Children of a process, whichever thread started them."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for path in threads for pid in path.read_text().split()]


def within(folder: Path) -> set[Path]:
    return set(folder.iterdir())


async def gone(pids: list[int]) -> None:
    async with asyncio.timeout(10):
        while any(Path(f"/proc/{pid}").exists() for pid in pids):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)


async def test_library_talks_with_a_peer_given_by_address_only(peer: FakePeer, tmp_path: Path):
    async with Swarm.connect(list(peer.addresses), cache=tmp_path / "cache") as swarm:
        answers = await asyncio.gather(
            *(swarm.generate([number], max_tokens=30) for number in range(5, 13))
        )
    for number, answer in zip(range(5, 13), answers, strict=True):
        assert answer.tokens == answer_to([number], 30)
    assert peer.streams == 1


async def test_command_prints_the_answer(peer: FakePeer, tmp_path: Path):
    process = await start(
        "chat", peer.address, "--prompt", "hello", "--max-tokens", "5", "--json", cache=tmp_path
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    end = json.loads(out.splitlines()[-1])
    assert tuple(end["tokens"]) == answer_to(peer.asked[0].prompt, 5)


async def test_address_where_nobody_answers_is_one_line(tmp_path: Path):
    process = await start("chat", NOBODY, "--prompt", "hello", cache=tmp_path)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert out == b""
    assert err.decode().startswith("helix-p2p: nobody in the swarm answers")
    assert err.count(b"\n") == 1


async def test_nobody_answers_is_unreachable(tmp_path: Path):
    with pytest.raises(PeerUnreachable):
        async with Swarm.connect(NOBODY, cache=tmp_path):
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_stopped_command_leaves_no_daemon_and_no_file_behind(
    peer: FakePeer, tmp_path: Path, short_tmp: Path, number: signal.Signals
):
    peer.pause_s = 0.1
    process = await start(
        "generate", peer.address, "--prompt", "hello", "--max-tokens", "200", cache=tmp_path
    )
    assert process.stdout is not None
    before = within(short_tmp)
    await asyncio.wait_for(process.stdout.read(1), 60)
    children = daemons_of(process)
    assert children
    assert len(within(short_tmp) - before) == 1
    process.send_signal(number)
    await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 130
    assert within(short_tmp) == before
    await gone(children)
    async with asyncio.timeout(10):
        while not (peer.cancelled or peer.ended):  # noqa: ASYNC110 - either frees the session
            await asyncio.sleep(0.02)


async def test_killed_client_leaves_no_key_and_its_folder_to_the_next_start(
    peer: FakePeer, tmp_path: Path, short_tmp: Path
):
    peer.pause_s = 0.1
    before = within(short_tmp)
    asked = ("generate", peer.address, "--prompt", "hello", "--max-tokens", "200")
    process = await start(*asked, cache=tmp_path)
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.read(1), 60)
    children = daemons_of(process)
    process.kill()
    await process.wait()
    [left] = within(short_tmp) - before
    assert all(path.read_bytes() == b"" for path in within(left) if path.is_file())
    await gone(children)
    async with Swarm.connect(list(peer.addresses), cache=tmp_path):
        assert left not in within(short_tmp)
    assert within(short_tmp) == before


async def test_terminal_that_is_closed_ends_the_conversation(
    peer: FakePeer, tmp_path: Path, short_tmp: Path
):
    before = within(short_tmp)
    ours, theirs = pty.openpty()
    process = await start("chat", peer.address, cache=tmp_path, stdin=theirs)
    os.close(theirs)
    try:
        os.write(ours, b"hello\n")
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while not peer.asked:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGHUP)
        await asyncio.wait_for(process.communicate(), 30)
    finally:
        os.close(ours)
    assert process.returncode == 130
    assert within(short_tmp) == before


async def test_conversation_in_a_terminal_survives_ctrl_c(peer: FakePeer, tmp_path: Path):
    peer.pause_s = 0.05
    ours, theirs = pty.openpty()
    process = await start("chat", peer.address, "--max-tokens", "100", cache=tmp_path, stdin=theirs)
    os.close(theirs)
    try:
        os.write(ours, b"hello\n")
        async with asyncio.timeout(60):
            while not peer.asked:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGINT)
            while not peer.cancelled:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        peer.pause_s = 0.0
        os.write(ours, b"again\n")
        async with asyncio.timeout(60):
            while len(peer.asked) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        os.write(ours, b"\x04")
        _, err = await asyncio.wait_for(process.communicate(), 30)
    finally:
        os.close(ours)
    assert process.returncode == 0
    assert b"stopped" in err
    assert b"100 tokens" in err
