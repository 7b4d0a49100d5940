"""Streams to entry peers: one for each, shared by all generations of this client.

A message is posted and never waited for; what goes wrong comes back to the generation as an event,
like an answer. A stopped process still keeps its streams open, so both ends send heartbeats while
an answer is owed (`net.link.keep_alive`): the client finds a frozen entry peer, and the entry peer
frees what a client that vanished was given.

Always: a link's messages go out in the order they were posted; after a link is lost, each
generation on it hears so exactly once, and the next message dials anew.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from helix_p2p.errors import Cancelled, HelixError, PeerLost, ProtocolError, from_wire
from helix_p2p.membership.messages import ErrorReply, Heartbeat
from helix_p2p.net.channel import Channel, Membership, open_channel
from helix_p2p.net.link import keep_alive
from helix_p2p.net.links import first_to_end
from helix_p2p.net.protocols import CLIENT_PROTOCOL
from helix_p2p.net.transport import Transport
from helix_p2p.session.messages import Cancel, Delivered, Generate, Refused
from helix_p2p.types import PeerId, SessionId

DIAL_S = 5.0
HEARTBEAT_S = 0.5
SILENCE_S = 2.5
"""An entry peer that owes tokens and says nothing for so long is left; it is to be found within
3 s, the time between two looks included."""

log = logging.getLogger(__name__)

Said = Delivered | Refused | HelixError
Sink = Callable[[PeerId, Said], None]
"""Takes what an entry peer says about one session, or why its link was lost."""


class EntryLinks:
    """All of a client's streams to entry peers.

    Args:
        transport: Ours.
        ours: What we show and accept.
        addresses_of: Where a peer is to be reached.
    """

    def __init__(
        self,
        transport: Transport,
        ours: Membership,
        addresses_of: Callable[[PeerId], tuple[str, ...]],
    ) -> None:
        self._transport = transport
        self._ours = ours
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
                alive = keep_alive(
                    channel,
                    owed=lambda: bool(link.sinks),
                    beat=link.beat,
                    heartbeat_s=HEARTBEAT_S,
                    silence_s=SILENCE_S,
                )
                error = await first_to_end(link.read(channel), link.write(channel), alive) or error
        except HelixError as caught:
            error = caught
        finally:
            # Nothing awaits from here on: whoever posts next gets a new link.
            if self._links.get(link.peer) is link:
                del self._links[link.peer]
            link.lost(Cancelled("this client is closed") if self._closed else error)


class _Link:
    """One stream and those who listen to it."""

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.sinks: dict[SessionId, Sink] = {}
        self._outbox: asyncio.Queue[Generate | Cancel | Heartbeat] = asyncio.Queue()

    def post(self, message: Generate | Cancel, sink: Sink) -> None:
        if isinstance(message, Generate):
            self.sinks[message.session] = sink
        else:
            self.sinks.pop(message.session, None)
        self._outbox.put_nowait(message)

    def beat(self) -> None:
        if self._outbox.empty():
            self._outbox.put_nowait(Heartbeat())

    async def write(self, channel: Channel) -> None:
        while True:
            message = await self._outbox.get()
            try:
                await channel.send(message)
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
                case Heartbeat():
                    pass
                case ErrorReply(code=code, message=text, retry_after_s=retry_after_s):
                    raise from_wire(code, text, retry_after_s)
                case _:
                    raise ProtocolError(f"{self.peer} sent a client {type(message).__name__}")

    def lost(self, error: HelixError) -> None:
        sinks, self.sinks = self.sinks, {}
        for sink in sinks.values():
            sink(self.peer, error)
