"""Questions and answers between members: one request in flight per channel, channels reused.

A new stream costs 2–3 ms and a handshake, so each peer keeps a few channels open for a while. The
control plane's questions are safe to repeat, so one that a reused channel lost is asked once more
on a new one.

Always: every request has a deadline; a channel whose answer did not come is closed, never reused;
an `ErrorReply` comes out as the error it stands for.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Self
from weakref import WeakValueDictionary

from helix_p2p.errors import (
    Busy,
    DeadlineExceeded,
    HandshakeRefused,
    HelixError,
    NetworkError,
    PeerLost,
    ProtocolError,
    from_wire,
)
from helix_p2p.membership.messages import ErrorReply
from helix_p2p.net.channel import (
    Channel,
    Membership,
    accept_channel,
    error_reply,
    open_channel,
)
from helix_p2p.net.protocols import CONTROL_PROTOCOL
from helix_p2p.net.transport import Buffer, Stream, Transport
from helix_p2p.types import PeerId
from helix_p2p.wire.registry import Message

CHANNELS_PER_PEER = 3
RECHECK_S = 2.0
IDLE_S = 60.0
"""An unused channel is closed after this by the asking end, and 30 s later by the answering one."""
SERVED_CHANNELS_PER_PEER = 8
REQUEST_PAYLOAD_LIMIT_BYTES = 8 * 1024 * 1024
"""Only probes carry any."""

log = logging.getLogger(__name__)

Answer = Callable[[Channel, Message, bytearray], Awaitable[tuple[Message, Buffer]]]
"""(channel with `remote` and `roles`, message, payload) to (reply, payload), or a HelixError."""


class Requests:
    """Asks other members; used as `async with Requests(...) as requests`."""

    def __init__(
        self, transport: Transport, ours: Membership, *, protocol: str = CONTROL_PROTOCOL
    ) -> None:
        self._transport = transport
        self._ours = ours
        self._protocol = protocol
        self._idle: dict[PeerId, list[tuple[float, Channel]]] = defaultdict(list)
        self._turns: WeakValueDictionary[PeerId, asyncio.Semaphore] = WeakValueDictionary()
        """Only while somebody asks: nothing is kept of those who never answered."""
        self._closed = False

    async def ask(
        self,
        peer: PeerId,
        message: Message,
        payload: Buffer = b"",
        *,
        timeout_s: float = 10.0,
        addresses: tuple[str, ...] = (),
    ) -> tuple[Message, bytearray]:
        """Send a message and wait for its answer.

        Args:
            peer: Whom to ask.
            message: What.
            payload: Behind it.
            timeout_s: For everything, a dial included.
            addresses: Where the peer may be.

        Returns:
            The answer and its payload.

        Raises:
            PeerUnreachable: The dial failed.
            PeerLost: It went away meanwhile.
            DeadlineExceeded: No answer in time.
            HelixError: What the other end answered with an `ErrorReply`.
        """
        turn = self._turns.setdefault(peer, asyncio.Semaphore(CHANNELS_PER_PEER))
        try:
            async with asyncio.timeout(timeout_s), turn:
                reply, data = await self._ask(peer, message, payload, addresses, timeout_s)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{peer} did not answer in {timeout_s:g} s") from error
        if isinstance(reply, ErrorReply):
            raise from_wire(reply.code, reply.message, reply.retry_after_s)
        return reply, data

    async def forget(self, peer: PeerId) -> None:
        """Close the unused channels with a peer, e.g. because it is gone."""
        for _since_s, channel in self._idle.pop(peer, []):
            await channel.close()

    async def tidy(self) -> None:
        """Close channels that were not used for long; call it now and then.

        Peers that left are never asked again, so nothing else would close theirs.
        """
        oldest_s = asyncio.get_running_loop().time() - IDLE_S
        for peer in list(self._idle):
            if all(since_s < oldest_s for since_s, _ in self._idle[peer]):
                await self.forget(peer)

    async def close(self) -> None:
        """Close all unused channels; those in use close after their answer."""
        self._closed = True
        for peer in list(self._idle):
            await self.forget(peer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def _ask(
        self,
        peer: PeerId,
        message: Message,
        payload: Buffer,
        addresses: tuple[str, ...],
        timeout_s: float,
    ) -> tuple[Message, bytearray]:
        channel = await self._take_idle(peer)
        if channel is not None:
            with contextlib.suppress(PeerLost):
                await _still_welcome(channel, self._ours)
                return await self._exchange(channel, message, payload)
        channel = await open_channel(
            self._transport,
            peer,
            self._protocol,
            self._ours,
            addresses=addresses,
            timeout_s=0.9 * timeout_s,  # so that a failed dial says so, not just "no answer"
        )
        return await self._exchange(channel, message, payload)

    async def _exchange(
        self, channel: Channel, message: Message, payload: Buffer
    ) -> tuple[Message, bytearray]:
        try:
            await channel.send(message, payload)
            answer = await channel.receive()
        except BaseException:
            await asyncio.shield(channel.close())
            raise
        if self._closed:
            await channel.close()
        else:
            now_s = asyncio.get_running_loop().time()
            self._idle[channel.remote].append((now_s, channel))
        return answer

    async def _take_idle(self, peer: PeerId) -> Channel | None:
        """The channel used last, which the other end is least likely to have closed."""
        oldest_s = asyncio.get_running_loop().time() - IDLE_S
        channels = self._idle.get(peer, [])
        stale = [channel for since_s, channel in channels if since_s < oldest_s or channel.closed]
        channels[:] = [entry for entry in channels if entry[1] not in stale]
        taken = channels.pop()[1] if channels else None
        for channel in stale:
            await channel.close()
        return taken


async def serve_requests(
    transport: Transport,
    ours: Membership,
    answer: Answer,
    *,
    protocol: str = CONTROL_PROTOCOL,
) -> None:
    """Answer other members' requests from now on, until the transport closes.

    Args:
        transport: Ours.
        ours: Whom to let in.
        answer: Gives the reply, or raises a HelixError, which crosses the wire as `ErrorReply`.
        protocol: What is asked in.
    """
    open_channels: dict[PeerId, int] = defaultdict(int)

    async def serve(stream: Stream) -> None:
        peer = stream.remote
        try:
            channel = await accept_channel(
                stream, ours, payload_limit_bytes=REQUEST_PAYLOAD_LIMIT_BYTES
            )
        except HelixError as error:
            log.info("%s was not let in: %s", peer, error)
            return
        if open_channels[peer] >= SERVED_CHANNELS_PER_PEER:
            await channel.refuse(Busy("too many channels at once", retry_after_s=1.0))
            return
        open_channels[peer] += 1
        try:
            while True:
                await _answer_one(channel, ours, answer)
        except (NetworkError, ProtocolError) as error:
            log.debug("a channel with %s ended: %s", peer, error)
        finally:
            open_channels[peer] -= 1
            if not open_channels[peer]:
                del open_channels[peer]
            await channel.close()

    await transport.serve(protocol, serve)


async def _answer_one(channel: Channel, ours: Membership, answer: Answer) -> None:
    message, payload = await _next_question(channel, ours)
    try:
        reply, data = await answer(channel, message, payload)
    except HelixError as error:
        reply, data = error_reply(error), b""
    await channel.send(reply, data)


async def _next_question(channel: Channel, ours: Membership) -> tuple[Message, bytearray]:
    """Wait for one, for as long as the other end is a member."""
    for _ in range(ceil((IDLE_S + 30.0) / RECHECK_S)):
        with contextlib.suppress(DeadlineExceeded):
            question = await channel.receive(timeout_s=RECHECK_S)
            await _still_welcome(channel, ours)
            return question
        await _still_welcome(channel, ours)
    raise DeadlineExceeded(f"{channel.remote} asks nothing any more")


async def _still_welcome(channel: Channel, ours: Membership) -> None:
    try:
        channel.recheck(ours)
    except HandshakeRefused as refusal:
        await channel.refuse(refusal)
        raise
