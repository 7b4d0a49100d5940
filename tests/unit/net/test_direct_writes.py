"""Small urgent frames go straight to the stream; whatever waits goes first."""

import asyncio

from helix_p2p.errors import PeerLost
from helix_p2p.membership.messages import Heartbeat
from helix_p2p.net.channel import Channel
from helix_p2p.net.transport import Buffer
from helix_p2p.types import PeerId
from helix_p2p.wire.framing import encode_frame


class Stream:
    """A stream that keeps what is written, and whose waiting writes end when they are let."""

    remote = PeerId("them")

    def __init__(self) -> None:
        self.written: list[Buffer] = []
        self.room = True
        self.let = asyncio.Event()

    async def read_exactly(self, count: int) -> bytes:
        raise PeerLost(f"no {count} bytes")

    def write_now(self, *buffers: Buffer) -> bool:
        if self.room:
            self.written += buffers
        return self.room

    async def write(self, *buffers: Buffer) -> None:
        await self.let.wait()
        self.written += buffers

    async def close(self) -> None:
        self.let.set()


async def test_nothing_overtakes_a_write_that_waits() -> None:
    stream = Stream()
    channel = Channel(stream)
    waiting = asyncio.create_task(channel.write(b"first"))
    await asyncio.sleep(0)
    assert not channel.write_now(b"second")
    stream.let.set()
    await waiting
    assert channel.write_now(b"second")
    assert stream.written == [b"first", b"second"]


async def test_a_closed_channel_sends_nothing() -> None:
    stream = Stream()
    channel = Channel(stream)
    await channel.close()
    assert not channel.write_now(*encode_frame(Heartbeat()))
    assert stream.written == []


async def test_a_stream_without_room_takes_nothing() -> None:
    stream = Stream()
    stream.room = False
    assert not Channel(stream).write_now(b"frame")
    assert stream.written == []
