"""The in-memory network keeps the transport's promises and fails on command."""

import asyncio

import pytest

from helix_p2p.errors import PeerLost, PeerUnreachable
from helix_p2p.net.memory import WINDOW_BYTES, MemoryNetwork
from helix_p2p.net.transport import Stream, Transport
from helix_p2p.types import PeerId

ANN, BEN = PeerId("ann"), PeerId("ben")


async def test_streams_carry_bytes_both_ways_and_name_the_remote() -> None:
    network = MemoryNetwork()
    ann: Transport = network.join(ANN)
    ben: Transport = network.join(BEN)

    async def shout(stream: Stream) -> None:
        assert stream.remote == ANN
        await stream.write((await stream.read_exactly(5)).upper(), b"!")

    await ben.serve("/shout", shout)
    stream = await ann.open(BEN, "/shout")
    await stream.write(b"he", memoryview(b"llo"))
    assert await stream.read_exactly(6) == b"HELLO!"
    with pytest.raises(PeerLost):  # the handler returned, so the stream is over
        await stream.read_exactly(1)
    with pytest.raises(PeerLost):
        await stream.write(b"x")
    await ann.close()
    await ben.close()


async def test_dials_fail_for_unknown_peers_protocols_and_cuts() -> None:
    network = MemoryNetwork()
    ann, _ben = network.join(ANN), network.join(BEN)
    with pytest.raises(PeerUnreachable, match="not on this network"):
        await ann.open(PeerId("eve"), "/x")
    with pytest.raises(PeerUnreachable, match="does not talk"):
        await ann.open(BEN, "/x")
    network.cut(ANN, BEN)
    with pytest.raises(PeerUnreachable, match="cut"):
        await ann.open(BEN, "/x")


async def test_a_killed_peer_ends_its_streams_at_once() -> None:
    network = MemoryNetwork()
    ann, ben = network.join(ANN), network.join(BEN)
    await ben.serve("/wait", _wait)
    stream = await ann.open(BEN, "/wait")
    reader = asyncio.create_task(stream.read_exactly(1))
    await asyncio.sleep(0)
    network.kill(BEN)
    with pytest.raises(PeerLost):
        await reader


async def test_a_frozen_peer_is_silent_until_it_thaws() -> None:
    network = MemoryNetwork()
    ann, ben = network.join(ANN), network.join(BEN)
    await ben.serve("/echo", _echo)
    network.freeze(BEN)
    stream = await ann.open(BEN, "/echo")
    await stream.write(b"x")
    reader = asyncio.create_task(stream.read_exactly(1))
    done, _pending = await asyncio.wait([reader], timeout=0.02)
    assert not done
    network.thaw(BEN)
    assert await reader == b"x"
    await ann.close()
    await ben.close()


async def test_a_writer_waits_for_a_slow_reader() -> None:
    network = MemoryNetwork()
    ann, ben = network.join(ANN), network.join(BEN)
    go = asyncio.Event()
    received = asyncio.Event()

    async def slow(stream: Stream) -> None:
        await go.wait()
        await stream.read_exactly(WINDOW_BYTES + 1)
        received.set()

    await ben.serve("/slow", slow)
    stream = await ann.open(BEN, "/slow")
    writer = asyncio.create_task(stream.write(bytes(WINDOW_BYTES + 1)))
    done, _pending = await asyncio.wait([writer], timeout=0.02)
    assert not done
    go.set()
    await writer
    await received.wait()
    await ann.close()
    await ben.close()


async def _wait(stream: Stream) -> None:
    await asyncio.Event().wait()


async def _echo(stream: Stream) -> None:
    while True:
        await stream.write(await stream.read_exactly(1))
