"""Clients' streams at an entry peer: many generations on each, none of which can hold another up.

Always: only members with the client's role get in; what a client sends passes the machines' checks;
a client that does not read its tokens is cut off when its queue is full, and all it had running is
freed.
"""

import asyncio
import itertools
import logging

from helix_p2p.errors import HelixError, NetworkError, ProtocolError
from helix_p2p.net.channel import Channel, Membership, accept_channel
from helix_p2p.net.protocols import CLIENT_PROTOCOL
from helix_p2p.net.transport import Buffer, Stream, Transport
from helix_p2p.node.serving import Serving
from helix_p2p.session.effects import ClientKey
from helix_p2p.types import PeerId
from helix_p2p.wire.framing import encode_frame
from helix_p2p.wire.registry import Message

QUEUE_MESSAGES = 4096
STREAMS_PER_CLIENT = 16

log = logging.getLogger(__name__)


class _Stream:
    """One client's stream; implements `serving.ClientStream`."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._frames: list[Buffer] = []
        self._ready = asyncio.Event()
        self.overflow = False

    def send(self, message: Message) -> None:
        self.overflow |= len(self._frames) >= QUEUE_MESSAGES
        if not self.overflow:
            self._frames.extend(encode_frame(message))
        self._ready.set()

    async def write(self) -> None:
        """Send what is queued, all at once, until the stream ends."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            if self.overflow:
                raise ProtocolError("the client does not read its tokens")
            frames, self._frames = self._frames, []
            await self.channel.write(*frames)


class ClientService:
    """Serves `CLIENT_PROTOCOL`.

    Args:
        serving: Takes what clients send.
        members: Whom to let in.
    """

    def __init__(self, serving: Serving, members: Membership) -> None:
        self._serving = serving
        self._members = members
        self._numbers = itertools.count()
        self._open: dict[PeerId, int] = {}

    async def start(self, transport: Transport) -> None:
        """Take clients from now on."""
        await transport.serve(CLIENT_PROTOCOL, self._serve)

    @property
    def clients(self) -> int:
        """Identities with an open stream."""
        return len(self._open)

    async def _serve(self, stream: Stream) -> None:
        peer = stream.remote
        if self._open.get(peer, 0) >= STREAMS_PER_CLIENT:
            return
        self._open[peer] = self._open.get(peer, 0) + 1  # at once: handshakes overlap
        try:
            channel = await accept_channel(stream, self._members, payload_limit_bytes=0)
            await self._talk(peer, channel)
        except HelixError as error:
            log.info("client %s was not let in: %s", peer, error)
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]

    async def _talk(self, peer: PeerId, channel: Channel) -> None:
        key = ClientKey(f"{peer}/{next(self._numbers)}")
        client = _Stream(channel)
        self._serving.add_client(key, client)
        writer = asyncio.create_task(client.write())
        reader = asyncio.create_task(self._read(key, channel))
        try:
            await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._serving.remove_client(key)
            for task in (writer, reader):
                task.cancel()
            ended = await asyncio.gather(writer, reader, return_exceptions=True)
            await channel.close()
        for reason in ended:
            if isinstance(reason, ProtocolError):
                log.info("client %s was cut off: %s", peer, reason)
            elif reason and not isinstance(reason, (NetworkError, asyncio.CancelledError)):
                raise reason

    async def _read(self, key: ClientKey, channel: Channel) -> None:
        while True:
            message, _ = await channel.receive()
            try:
                self._serving.on_client_message(key, channel.remote, message)
            except ProtocolError as error:
                await channel.refuse(error)
                raise
            await asyncio.sleep(0)  # one that sends without a pause leaves the loop to others
