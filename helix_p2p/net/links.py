"""Links: one long-lived stream to each neighbour, watched by heartbeats.

Each end opens its own stream for what it sends, so a link needs no agreement on who dials, and both
directions fail together. How one link works and how it is judged: `link.py`.

Always: messages in one lane arrive in the order of `send`; `on_lost` is called once for each loss
of a peer, whichever direction noticed it, and not for links that either end closed on purpose;
no callback comes after `close` began; a failed dial is a loss at once. After a loss the next
`send` dials anew: whom to spare is the caller's decision.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self

from helix_p2p.errors import (
    Cancelled,
    HandshakeRefused,
    HelixError,
    PeerLost,
    ProtocolError,
    from_wire,
)
from helix_p2p.membership.messages import ErrorReply, Heartbeat
from helix_p2p.net.channel import Membership, accept_channel, open_channel
from helix_p2p.net.event_loop import next_tick
from helix_p2p.net.link import (
    TICKS_PER_HEARTBEAT,
    Incoming,
    LinkOptions,
    LinkStats,
    Outgoing,
)
from helix_p2p.net.protocols import PEER_PROTOCOL
from helix_p2p.net.transport import Buffer, Stream, Transport
from helix_p2p.types import PeerId
from helix_p2p.wire.framing import encode_frame
from helix_p2p.wire.registry import Message

log = logging.getLogger(__name__)


class LinkPool:
    """Links to and from our neighbours; used as `async with LinkPool(...) as links`.

    Args:
        transport: Ours.
        ours: Whom to let in and what to show.
        on_message: (peer, message, payload); must not block. A HelixError that it raises is the
            peer's fault: the peer is told and the link is lost.
        on_lost: (peer, why); must not block.
        addresses: Where a peer may be; asked at each dial.
        options: Bounds and times.
        protocol: What the links talk.
    """

    def __init__(
        self,
        transport: Transport,
        ours: Membership,
        *,
        on_message: Callable[[PeerId, Message, bytearray], None],
        on_lost: Callable[[PeerId, HelixError], None],
        addresses: Callable[[PeerId], Sequence[str]] = lambda _peer: (),
        options: LinkOptions | None = None,
        protocol: str = PEER_PROTOCOL,
    ) -> None:
        self._transport = transport
        self._ours = ours
        self._on_message = on_message
        self._on_lost = on_lost
        self._addresses = addresses
        self._options = options or LinkOptions()
        self._protocol = protocol
        self._outgoing: dict[PeerId, Outgoing] = {}
        self._incoming: dict[PeerId, Incoming] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Take incoming links from now on."""
        await self._transport.serve(self._protocol, self._serve)
        self._ticker = asyncio.create_task(self._tick())

    def send(
        self, peer: PeerId, message: Message, payload: Buffer = b"", *, urgent: bool = True
    ) -> None:
        """Queue a message; dials when there is no link yet. Never waits.

        Args:
            peer: To whom.
            message: What.
            payload: Behind it; not to be changed afterwards.
            urgent: Goes before everything that is not (decode before prefill).

        Raises:
            Busy: Too much waits for this peer already.
            PeerLost: The pool is closed.
        """
        if self._closed:
            raise PeerLost("these links are closed")
        link = self._outgoing.get(peer)
        if link is None:
            link = self._outgoing[peer] = Outgoing(peer, self._options)
            link.task = self._spawn(self._run_outgoing(link))
        link.put(encode_frame(message, payload), urgent=urgent)

    def stats(self) -> dict[PeerId, LinkStats]:
        """All outgoing links."""
        return {peer: link.stats() for peer, link in self._outgoing.items()}

    def queued_bytes(self, peer: PeerId) -> int:
        """How much waits to be sent to a peer."""
        link = self._outgoing.get(peer)
        return 0 if link is None else link.queued_bytes

    def rtt_s(self, peer: PeerId) -> float | None:
        """Median round trip to a peer; None when there is no link or no sample yet."""
        link = self._outgoing.get(peer)
        return None if link is None else link.rtt_s

    def drop(self, peer: PeerId) -> None:
        """End our link to a peer once what waits is sent; nobody is told of a loss."""
        link = self._outgoing.pop(peer, None)
        if link is not None:
            link.finish()

    async def close(self, *, flush_s: float = 1.0) -> None:
        """Send what waits, for at most `flush_s`, then end all links; safe to call twice."""
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        flushing = [link.task for link in self._outgoing.values() if link.task is not None]
        for peer in list(self._outgoing):
            self.drop(peer)
        if flushing and flush_s > 0:
            await asyncio.wait(flushing, timeout=flush_s)
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    # ── outgoing ────────────────────────────────────────────────────────────────────────────────

    async def _run_outgoing(self, link: Outgoing) -> None:
        try:
            error = await self._dial(link)
            dialled = link.channel is not None
            if link.channel is not None:
                error = await first_to_end(link.write(), link.read(), link.watch.verdict())
            # told before the stream is closed, which can take a second when the peer is stuck
            if error is not None and self._outgoing.get(link.peer) is link:
                del self._outgoing[link.peer]
                self._lose(link.peer, error, both_ways=dialled)
        finally:
            if link.channel is not None:
                await asyncio.shield(link.channel.close())

    async def _dial(self, link: Outgoing) -> HelixError | None:
        timeout_s = self._options.dial_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                channel = await open_channel(
                    self._transport,
                    link.peer,
                    self._protocol,
                    self._ours,
                    addresses=tuple(self._addresses(link.peer)),
                    timeout_s=0.9 * timeout_s,
                )
        except HelixError as error:
            return error
        except TimeoutError:
            return PeerLost(f"{link.peer} did not shake hands in {timeout_s:g} s")
        link.attach(channel)
        return None

    # ── incoming ────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, stream: Stream) -> None:
        """Run an incoming link as a task of ours, so that `close` ends it."""
        if self._closed or len(self._tasks) >= 2 * self._options.incoming_per_pool:
            return
        await asyncio.gather(self._spawn(self._run_incoming(stream)), return_exceptions=True)

    async def _run_incoming(self, stream: Stream) -> None:
        peer = stream.remote
        try:
            channel = await accept_channel(
                stream, self._ours, payload_limit_bytes=self._options.payload_limit_bytes
            )
        except HelixError as refusal:
            log.info("%s was not let in: %s", peer, refusal)
            return
        link = Incoming(peer, channel)
        replaced, self._incoming[peer] = self._incoming.get(peer), link
        if replaced is not None:
            replaced.watch.judge(None)  # the peer dialled anew; what is left of the old one is void
        try:
            error = await first_to_end(link.write(), self._read(link), link.watch.verdict())
            if error is not None and self._incoming.get(peer) is link:
                self._lose(peer, error, both_ways=True)
            if isinstance(error, ProtocolError):
                await channel.refuse(error)
        finally:
            if self._incoming.get(peer) is link:
                del self._incoming[peer]
            await asyncio.shield(channel.close())

    async def _read(self, link: Incoming) -> None:
        while True:
            message, payload = await link.channel.receive()
            match message:
                case Heartbeat():
                    link.answer(message)
                case ErrorReply(code=Cancelled.code):
                    return
                case ErrorReply():
                    raise from_wire(message.code, message.message, message.retry_after_s)
                case _:
                    self._deliver(link.peer, message, payload)

    def _deliver(self, peer: PeerId, message: Message, payload: bytearray) -> None:
        if self._closed:
            return
        try:
            self._on_message(peer, message, payload)
        except HelixError:
            raise
        except Exception as error:
            log.exception("handling %s from %s failed", type(message).__name__, peer)
            raise ProtocolError("the message could not be handled") from error

    # ── both ────────────────────────────────────────────────────────────────────────────────────

    def _lose(self, peer: PeerId, error: HelixError, *, both_ways: bool) -> None:
        """Tell once, and end the other direction too unless only our dial failed."""
        if both_ways:
            outgoing, incoming = self._outgoing.pop(peer, None), self._incoming.pop(peer, None)
            for link in (outgoing, incoming):
                if link is not None:
                    link.watch.judge(None)
        if not self._closed:
            self._on_lost(peer, error)

    def _recheck(self, link: Outgoing | Incoming) -> None:
        """Who was revoked, or whose certificate expired, is cut off while its link runs."""
        if link.channel is not None:
            try:
                link.channel.recheck(self._ours)
            except HandshakeRefused as refusal:
                link.watch.judge(refusal)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a link ended with a bug", exc_info=error)

    async def _tick(self) -> None:
        """Heartbeats out, silence noticed."""
        options, clock = self._options, asyncio.get_running_loop().time
        tick_s = min(options.heartbeat_s, options.silence_s) / TICKS_PER_HEARTBEAT
        last_s = clock()
        number = 0
        while True:
            await next_tick(tick_s)
            now_s = clock()
            awake_s, last_s = min(now_s - last_s, 2 * tick_s), now_s
            number += 1
            beat = number % TICKS_PER_HEARTBEAT == 0
            links: list[Outgoing | Incoming] = [*self._outgoing.values(), *self._incoming.values()]
            for link in links:
                link.watch.tick(link.channel, awake_s, options.silence_s)
                if beat:
                    self._recheck(link)
                    link.beat()


async def first_to_end(*works: Coroutine[Any, Any, None]) -> HelixError | None:
    """Run all until one ends; its error, or None when it simply returned."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        error = task.exception()
        if isinstance(error, HelixError):
            return error
        if error is not None:
            raise error
    return None
