"""The examples run as they stand in the documentation."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from helix_p2p.net.libp2p import Libp2pTransport
from tests.unit.client.fake_swarm import FakePeer, FakeSwarm

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[FakePeer]:
    fake = FakeSwarm(tmp_path / "model", context_tokens=2048)
    transport = await Libp2pTransport.start(fake.identity_of(1))
    try:
        yield await fake.add(transport=transport)
    finally:
        await transport.close()


@pytest.mark.parametrize(
    ("name", "arguments", "fed", "asked"),
    [
        ("chat.py", ["Why?"], b"", 1),
        ("many_at_once.py", [], b"one\ntwo\n\nthree\n", 3),
        ("without_await.py", [], b"", 2),
    ],
)
async def test_example_runs(
    peer: FakePeer, tmp_path: Path, name: str, arguments: list[str], fed: bytes, asked: int
):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        peer.address,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    out, err = await asyncio.wait_for(process.communicate(fed), 60)
    assert process.returncode == 0, err.decode()
    assert len(peer.asked) == asked
    assert out.strip()


async def test_example_says_in_one_line_what_is_wrong():
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / "chat.py"),
        "helix1oops",
        "Why?",
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert err.count(b"\n") == 1
