"""Messages over a stream, after both ends have shown that they belong together.

    opener                       acceptor
      ├── Hello ───────────────────▶ │ checks; a refusal goes back as ErrorReply, then the end
      │ checks ◀─────────────── Hello┤
      ├── messages …    … messages ──┤

The acceptor answers only once it has checked: to the opener its Hello means "welcome", and a
stranger learns nothing of the swarm. Framing: `wire/framing.py`.

Always: before the handshake has passed, no other message is read or handed on; who owns a channel
rechecks it every second or two, so a member that was put out is cut off; `receive` and `send`
can be cancelled without losing the frame boundaries; a message that breaks the protocol ends the
channel with the reason told to the other end; after `close`, everything is `PeerLost`.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from helix_p2p.errors import (
    DeadlineExceeded,
    HandshakeRefused,
    HelixError,
    NetworkError,
    PeerLost,
    ProtocolError,
    from_wire,
)
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.handshake import Admission, check_hello
from helix_p2p.membership.messages import ErrorReply, Hello
from helix_p2p.net.transport import Buffer, Stream, Transport, size_bytes
from helix_p2p.types import PeerId
from helix_p2p.wire.framing import (
    PAYLOAD_LIMIT_BYTES,
    PREFIX_BYTES,
    Prefix,
    decode_message,
    decode_prefix,
    encode_frame,
)
from helix_p2p.wire.registry import Message

HANDSHAKE_TIMEOUT_S = 5.0
HELLO_LIMIT_BYTES = 16 * 1024
"""A certificate chain is under 4 KiB."""
WRITE_TIMEOUT_S = 20.0
SLOWEST_BYTES_PER_S = 64 * 1024
"""A frame that the other end takes more slowly than this, after the first 20 s, is not going to be
taken."""
PIECE_BYTES = 64 * 1024
"""Large payloads are read in pieces: memory grows with what has come, not with what was claimed,
and a slow transfer still shows as life."""

Handshake = Callable[[PeerId, Hello], frozenset[Role]]
"""Checks the other end's Hello, says what it may do, or raises HandshakeRefused."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What we show and what we accept at the start of a channel.

    Attributes:
        hello: Our first frame, with a fresh nonce at each call.
        check: Judges the other end's.
        timeout_s: For both together.
    """

    hello: Callable[[], Hello]
    check: Handshake
    timeout_s: float = HANDSHAKE_TIMEOUT_S

    @classmethod
    def of(
        cls,
        admission: Callable[[], Admission],
        *,
        unix_s: Callable[[], float] = time.time,
        timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> "Membership":
        """The usual one: `admission` as it stands now, the real clock, real nonces."""
        return cls(
            hello=lambda: admission().hello(secrets.token_bytes(16)),
            check=lambda peer, hello: check_hello(
                hello, admission(), remote=peer, now_unix_s=unix_s()
            ),
            timeout_s=timeout_s,
        )

    def requiring(self, role: Role) -> "Membership":
        """The same, but only those who may be `role` are let in."""

        def check(peer: PeerId, hello: Hello) -> frozenset[Role]:
            roles = self.check(peer, hello)
            if role not in roles:
                raise HandshakeRefused(f"{peer} may not be a {role} here")
            return roles

        return replace(self, check=check)


class Channel:
    """A stream of messages with one peer.

    Args:
        stream: Carries it.
        payload_limit_bytes: Of one message that comes; less than the protocol's where less makes
            sense, since every stream of every member may hold that much of our memory.

    Attributes:
        roles: What the other end may do.
        last_heard_s: Loop time at which bytes last arrived.
    """

    def __init__(
        self,
        stream: Stream,
        roles: frozenset[Role] = frozenset(),
        *,
        payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES,
    ) -> None:
        self._stream = stream
        self._payload_limit_bytes = payload_limit_bytes
        self._send_lock = asyncio.Lock()
        self._prefix: Prefix | None = None
        self._message: Message | None = None
        self._payload = bytearray()
        self._closed = False
        self._hello: Hello | None = None
        self._clock = asyncio.get_running_loop().time
        self.roles = roles
        self.last_heard_s = self._clock()

    @property
    def remote(self) -> PeerId:
        """Who is at the other end; authenticated."""
        return self._stream.remote

    @property
    def closed(self) -> bool:
        """Whether `close` was called or the stream is known to have ended."""
        return self._closed

    async def send(self, message: Message, payload: Buffer = b"") -> None:
        """Send one message; senders take turns in the order of their calls.

        Args:
            message: Any of the registry.
            payload: Not to be changed afterwards.

        Raises:
            PeerLost: The stream is gone, or the other end takes nothing any more.
        """
        await self.write(*encode_frame(message, payload))

    def write_now(self, *frames: Buffer) -> bool:
        """Send encoded frames if that takes no waiting: no task is woken for a frame of kilobytes.

        Returns:
            False, and nothing is sent, when something else waits or the channel is closed.
        """
        if self._closed or self._send_lock.locked():
            return False
        return self._stream.write_now(*frames)

    async def write(self, *frames: Buffer) -> None:
        """Send encoded frames as one piece; see `send`."""
        if self._closed:
            raise self._lost()
        timeout_s = WRITE_TIMEOUT_S + sum(map(size_bytes, frames)) / SLOWEST_BYTES_PER_S
        try:
            async with asyncio.timeout(timeout_s), self._send_lock:
                await self._stream.write(*frames)
        except TimeoutError as error:
            await self.close()
            raise PeerLost(f"{self.remote} takes nothing any more") from error
        except PeerLost:
            self._closed = True
            raise

    async def receive(self, *, timeout_s: float | None = None) -> tuple[Message, bytearray]:
        """The next message and its payload (empty when it has none).

        Args:
            timeout_s: How long to wait; None for ever (links have heartbeats instead).

        Raises:
            PeerLost: The stream ended.
            DeadlineExceeded: Nothing came; the channel is still good.
            DecodeError: Not a frame; the channel is over.
        """
        if timeout_s is None:
            return await self._receive()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._receive()
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.remote} sent nothing for {timeout_s:g} s") from error

    async def refuse(self, error: HelixError) -> None:
        """Tell the other end what is wrong, then end the channel."""
        try:
            async with asyncio.timeout(1.0):
                await self.send(error_reply(error))
        except (NetworkError, TimeoutError):
            pass  # it will see the end of the stream instead
        finally:
            await self.close()

    async def close(self) -> None:
        """End the channel; safe to call twice."""
        self._closed = True
        await self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def greet(self, ours: Membership, *, opener: bool) -> None:
        """Exchange Hellos; sets `roles`. Ends the channel when either end refuses.

        Raises:
            HandshakeRefused: We refuse it, or it refuses us.
            PeerLost: It went away, or did not say Hello in time.
            ProtocolError: It began with something else.
        """
        try:
            async with asyncio.timeout(ours.timeout_s):
                if opener:
                    await self.send(ours.hello())
                self._hello = await self._receive_hello()
                self.roles = ours.check(self.remote, self._hello)
                if not opener:
                    await self.send(ours.hello())
        except TimeoutError as error:
            await self.close()
            raise PeerLost(f"{self.remote} did not say hello in {ours.timeout_s:g} s") from error
        except _ToldToGo as refusal:
            await self.close()
            raise refusal.error from None
        except ProtocolError as error:
            await self.refuse(error)
            raise
        except BaseException:
            await self.close()
            raise

    def recheck(self, ours: Membership) -> None:
        """Judge the other end's Hello again, as of now: it may have been revoked, or have expired.

        Raises:
            HandshakeRefused: It would not be let in any more; the caller ends the channel.
        """
        if self._hello is not None:
            self.roles = ours.check(self.remote, self._hello)

    async def _receive_hello(self) -> Hello:
        prefix = decode_prefix(await self._stream.read_exactly(PREFIX_BYTES))
        if prefix.message_bytes > HELLO_LIMIT_BYTES or prefix.payload_bytes:
            raise HandshakeRefused("its first frame is too long for a hello")
        message = decode_message(prefix, await self._stream.read_exactly(prefix.message_bytes))
        match message:
            case Hello():
                return message
            case ErrorReply():
                raise _ToldToGo(_as_error(message))
            case _:
                raise HandshakeRefused("it did not begin with a hello")

    async def _receive(self) -> tuple[Message, bytearray]:
        """Read on from wherever a cancelled call stopped."""
        if self._closed:
            raise self._lost()
        try:
            if self._prefix is None:
                self._prefix = decode_prefix(
                    await self._read(PREFIX_BYTES), payload_limit_bytes=self._payload_limit_bytes
                )
            prefix = self._prefix
            if self._message is None:
                self._message = decode_message(prefix, await self._read(prefix.message_bytes))
            while (missing := prefix.payload_bytes - len(self._payload)) > 0:
                self._payload += await self._read(min(missing, PIECE_BYTES))
        except PeerLost:
            self._closed = True
            raise
        except ProtocolError as error:
            await self.refuse(error)
            raise
        message, payload = self._message, self._payload
        self._prefix, self._message, self._payload = None, None, bytearray()
        return message, payload

    async def _read(self, count: int) -> bytes:
        data = await self._stream.read_exactly(count)
        self.last_heard_s = self._clock()
        return data

    def _lost(self) -> PeerLost:
        return PeerLost(f"the channel with {self.remote} is closed")


class _ToldToGo(Exception):
    """The other end refused us; carries its reason."""

    def __init__(self, error: HelixError) -> None:
        super().__init__()
        self.error = error


async def open_channel(
    transport: Transport,
    peer: PeerId,
    protocol: str,
    ours: Membership,
    *,
    addresses: tuple[str, ...] = (),
    timeout_s: float = 10.0,
) -> Channel:
    """Dial a peer and exchange Hellos.

    Args:
        transport: Ours.
        peer: Whom to reach.
        protocol: What to talk.
        ours: What we show and accept.
        addresses: Where it may be.
        timeout_s: For the dial; the handshake has its own.

    Raises:
        PeerUnreachable: No way there, or it does not talk the protocol.
        HandshakeRefused: Either end refused the other.
        PeerLost: It went away meanwhile.
    """
    stream = await transport.open(peer, protocol, addresses=addresses, timeout_s=timeout_s)
    channel = Channel(stream)
    await channel.greet(ours, opener=True)
    return channel


async def accept_channel(
    stream: Stream, ours: Membership, *, payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES
) -> Channel:
    """Exchange Hellos on an incoming stream; raises as `open_channel`."""
    channel = Channel(stream, payload_limit_bytes=payload_limit_bytes)
    await channel.greet(ours, opener=False)
    return channel


def error_reply(error: HelixError) -> ErrorReply:
    """An error as it crosses the wire."""
    return ErrorReply(error.code, str(error)[:1000], error.retry_after_s)


def _as_error(reply: ErrorReply) -> HelixError:
    error = from_wire(reply.code, reply.message, reply.retry_after_s)
    if isinstance(error, HandshakeRefused):
        return HandshakeRefused(f"it refused us: {reply.message}")
    return error
