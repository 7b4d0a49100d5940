"""Streams to entry peers: one for each, shared by all generations of this client.

A message is posted and never waited for; what goes wrong comes back to the generation as an event,
like an answer. A stopped process still keeps its streams open, so an entry peer that owes tokens
and is silent is asked for a sign of life over the control protocol; any answer will do.

Always: a link's messages go out in the order they were posted; after a link is lost, each
generation on it hears so exactly once, and the next message dials anew.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from helix_p2p.errors import Cancelled, HelixError, NetworkError, PeerLost, ProtocolError, from_wire
from helix_p2p.membership.messages import ErrorReply, Probe
from helix_p2p.net.channel import Channel, Membership, open_channel
from helix_p2p.net.protocols import CLIENT_PROTOCOL
from helix_p2p.net.requests import Requests
from helix_p2p.net.transport import Transport
from helix_p2p.session.messages import Cancel, Delivered, Generate, Refused
from helix_p2p.types import PeerId, SessionId

DIAL_S = 5.0
QUIET_S = 1.0
"""Silence after which an entry peer that owes tokens is asked whether it lives."""
ALIVE_S = 2.5
"""How long it may take to answer; a stopped peer is found after `QUIET_S + ALIVE_S`."""

log = logging.getLogger(__name__)

Said = Delivered | Refused | HelixError
Sink = Callable[[PeerId, Said], None]
"""Takes what an entry peer says about one session, or why its link was lost."""


class EntryLinks:
    """All of a client's streams to entry peers.

    Args:
        transport: Ours.
        ours: What we show and accept.
        requests: For signs of life.
        addresses_of: Where a peer is to be reached.
    """

    def __init__(
        self,
        transport: Transport,
        ours: Membership,
        requests: Requests,
        addresses_of: Callable[[PeerId], tuple[str, ...]],
    ) -> None:
        self._transport = transport
        self._ours = ours
        self._requests = requests
        self._addresses_of = addresses_of
        self._links: dict[PeerId, _Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def post(self, peer: PeerId, message: Generate | Cancel, sink: Sink) -> None:
        """Send a message some time soon; answers about its session go to `sink`."""
        if self._closed:
            sink(peer, Cancelled("this client is closed"))
            return
        link = self._links.get(peer)
        if link is None:
            if isinstance(message, Cancel):
                return  # the stream it belongs to is gone, and the session with it
            link = self._links[peer] = _Link(peer)
            task = asyncio.create_task(self._run(link))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        link.post(message, sink)

    def release(self, session: SessionId, peer: PeerId) -> None:
        """Nothing about this session is of interest any more."""
        link = self._links.get(peer)
        if link is not None:
            link.sinks.pop(session, None)

    async def close(self) -> None:
        """Send what was posted, as far as that goes quickly, and end all streams."""
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.gather(*(link.flushed() for link in self._links.values()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, link: "_Link") -> None:
        error: HelixError = PeerLost(f"the client's stream to {link.peer} ended")
        try:
            channel = await open_channel(
                self._transport,
                link.peer,
                CLIENT_PROTOCOL,
                self._ours,
                addresses=self._addresses_of(link.peer),
                timeout_s=DIAL_S,
            )
            async with channel:
                writer = asyncio.create_task(link.write(channel))
                watcher = asyncio.create_task(self._watch(link, channel))
                try:
                    await link.read(channel)
                finally:
                    writer.cancel()
                    watcher.cancel()
                    await asyncio.gather(writer, watcher, return_exceptions=True)
        except HelixError as caught:
            error = link.stalled or caught
        finally:
            # Nothing awaits from here on: whoever posts next gets a new link.
            if self._links.get(link.peer) is link:
                del self._links[link.peer]
            link.lost(Cancelled("this client is closed") if self._closed else error)

    async def _watch(self, link: "_Link", channel: Channel) -> None:
        """End the channel when its peer owes tokens and gives no sign of life."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(QUIET_S)
            since_s = max(channel.last_heard_s, link.asked_s)
            if not link.sinks or clock() - since_s < QUIET_S:
                continue
            try:
                await self._requests.ask(
                    link.peer,
                    Probe(),
                    timeout_s=ALIVE_S,
                    addresses=self._addresses_of(link.peer),
                )
            except NetworkError as error:
                if max(channel.last_heard_s, link.asked_s) > since_s:
                    continue
                link.stalled = PeerLost(f"entry peer {link.peer} gives no sign of life: {error}")
                await channel.close()
                return
            except HelixError:
                continue  # a refusal is a sign of life


class _Link:
    """One stream and those who listen to it."""

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.sinks: dict[SessionId, Sink] = {}
        self.asked_s = 0.0
        self.stalled: HelixError | None = None
        self._clock = asyncio.get_running_loop().time
        self._outbox: asyncio.Queue[Generate | Cancel] = asyncio.Queue()

    def post(self, message: Generate | Cancel, sink: Sink) -> None:
        if isinstance(message, Generate):
            self.sinks[message.session] = sink
            self.asked_s = self._clock()
        else:
            self.sinks.pop(message.session, None)
        self._outbox.put_nowait(message)

    async def write(self, channel: Channel) -> None:
        while True:
            message = await self._outbox.get()
            try:
                await channel.send(message)
            except NetworkError:
                await channel.close()  # the reader tells everyone
                return
            finally:
                self._outbox.task_done()

    async def flushed(self) -> None:
        await self._outbox.join()

    async def read(self, channel: Channel) -> None:
        while True:
            message, _ = await channel.receive()
            match message:
                case Delivered(session=session) | Refused(session=session):
                    sink = self.sinks.get(session)
                    if sink is not None:
                        if isinstance(message, Refused) or message.finished is not None:
                            del self.sinks[session]
                        sink(self.peer, message)
                case ErrorReply(code=code, message=text, retry_after_s=retry_after_s):
                    raise from_wire(code, text, retry_after_s)
                case _:
                    raise ProtocolError(f"{self.peer} sent a client {type(message).__name__}")

    def lost(self, error: HelixError) -> None:
        sinks, self.sinks = self.sinks, {}
        for sink in sinks.values():
            sink(self.peer, error)
