"""Clients' streams at an entry peer: many generations on each, none of which can hold another up.

Always: only members with the client's role get in; what a client sends passes the machines' checks;
a client that does not read its tokens is cut off when its queue is full, one that vanished without
a word when it was silent for `SILENCE_S`, one that was revoked or whose certificate expired within
a second or two, and all it had running is freed.
"""

import asyncio
import itertools
import logging

from helix_p2p.errors import HandshakeRefused, HelixError, NetworkError, ProtocolError
from helix_p2p.membership.messages import Heartbeat
from helix_p2p.net.channel import Channel, Membership, accept_channel
from helix_p2p.net.link import keep_alive
from helix_p2p.net.links import first_to_end
from helix_p2p.net.protocols import CLIENT_PROTOCOL
from helix_p2p.net.transport import Buffer, Stream, Transport
from helix_p2p.node.serving import Serving
from helix_p2p.session.effects import ClientKey
from helix_p2p.types import PeerId
from helix_p2p.wire.framing import encode_frame
from helix_p2p.wire.registry import Message

QUEUE_MESSAGES = 4096
STREAMS_PER_CLIENT = 16
HEARTBEAT_S = 0.5
SILENCE_S = 15.0
"""A client's program may keep its loop busy for seconds; what it was given is free within 30 s."""
RECHECK_S = 1.0

log = logging.getLogger(__name__)


class _Stream:
    """One client's stream; implements `serving.ClientStream`."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._frames: list[Buffer] = []
        self._ready = asyncio.Event()
        self.overflow = False

    def send(self, message: Message) -> None:
        frame = encode_frame(message)
        if not self._frames and not self.overflow and self.channel.write_now(*frame):
            return
        self.overflow |= len(self._frames) >= QUEUE_MESSAGES
        if not self.overflow:
            self._frames.extend(frame)
        self._ready.set()

    def beat(self) -> None:
        """Show life, unless tokens wait to do that."""
        if not self._frames:
            self.send(Heartbeat())

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
        alive = keep_alive(
            channel,
            owed=lambda: self._serving.owes(key),
            beat=client.beat,
            heartbeat_s=HEARTBEAT_S,
            silence_s=SILENCE_S,
        )
        try:
            error = await first_to_end(
                client.write(), self._read(key, channel), alive, self._watch(channel)
            )
        finally:
            self._serving.remove_client(key)
            await channel.close()
        if error is not None and not isinstance(error, NetworkError):
            log.info("client %s was cut off: %s", peer, error)

    async def _watch(self, channel: Channel) -> None:
        """Until the client is revoked or its certificate expires."""
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                channel.recheck(self._members)
            except HandshakeRefused as refusal:
                await channel.refuse(refusal)
                raise

    async def _read(self, key: ClientKey, channel: Channel) -> None:
        while True:
            message, _ = await channel.receive()
            if isinstance(message, Heartbeat):
                continue
            try:
                self._serving.on_client_message(key, channel.remote, message)
            except ProtocolError as error:
                await channel.refuse(error)
                raise
            await asyncio.sleep(0)  # one that sends without a pause leaves the loop to others
