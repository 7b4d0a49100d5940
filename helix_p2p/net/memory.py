"""A network inside one event loop: the transport of tests and of the swarm in a box.

It keeps the promises of `transport.py` and fails the way real networks fail, on command: `kill` is
`kill -9` of a peer (its streams end at once, dials to it fail), `freeze` is SIGSTOP (streams stay
open and silent, and even new ones open), `cut` takes the way between two peers.

Always: bytes arrive in order and once; a slow reader holds its writer up; nothing crosses a cut.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from helix_p2p.errors import ConfigError, PeerLost, PeerUnreachable
from helix_p2p.net.transport import Buffer, Handler
from helix_p2p.types import PeerId

WINDOW_BYTES = 256 * 1024
"""A writer waits while this much is unread, as under libp2p's yamux."""


class MemoryNetwork:
    """Connects the `MemoryTransport`s that join it."""

    def __init__(self) -> None:
        self._transports: dict[PeerId, MemoryTransport] = {}
        self._frozen: set[PeerId] = set()
        self._cuts: set[frozenset[PeerId]] = set()
        self._pairs: set[_Pair] = set()

    def join(self, peer: PeerId) -> "MemoryTransport":
        """A transport for `peer`.

        Raises:
            ConfigError: The peer is there already.
        """
        if peer in self._transports:
            raise ConfigError(f"{peer} is on this network already")
        transport = self._transports[peer] = MemoryTransport(self, peer)
        return transport

    def kill(self, peer: PeerId) -> None:
        """End all streams of a peer at once and forget it."""
        self._frozen.discard(peer)
        transport = self._transports.pop(peer, None)
        if transport is not None:
            transport.cancel_handlers()
        for pair in [p for p in self._pairs if peer in p.ends]:
            pair.end()

    def freeze(self, peer: PeerId) -> None:
        """Stop a peer without a trace: nothing reaches it or leaves it, nothing ends."""
        self._frozen.add(peer)

    def thaw(self, peer: PeerId) -> None:
        """Let a frozen peer go on; what was sent meanwhile arrives."""
        self._frozen.discard(peer)
        self._wake(peer)

    def cut(self, one: PeerId, other: PeerId) -> None:
        """End the streams between two peers and refuse new ones."""
        self._cuts.add(frozenset((one, other)))
        for pair in [p for p in self._pairs if p.ends == {one, other}]:
            pair.end()

    def heal(self, one: PeerId, other: PeerId) -> None:
        """Undo `cut`."""
        self._cuts.discard(frozenset((one, other)))

    def _frozen_now(self, pair: "_Pair") -> bool:
        return not self._frozen.isdisjoint(pair.ends)

    def _wake(self, peer: PeerId) -> None:
        for pair in self._pairs:
            if peer in pair.ends:
                pair.wake()

    def _dial(self, caller: PeerId, peer: PeerId, protocol: str) -> "MemoryStream":
        target = self._transports.get(peer)
        if target is None or caller not in self._transports:
            raise PeerUnreachable(f"{peer} is not on this network")
        if frozenset((caller, peer)) in self._cuts:
            raise PeerUnreachable(f"the way to {peer} is cut")
        handler = target.handlers.get(protocol)
        if handler is None:
            raise PeerUnreachable(f"{peer} does not talk {protocol}")
        pair = _Pair(self, caller, peer)
        self._pairs.add(pair)
        target.spawn(handler, pair.far)
        return pair.near

    def _forget(self, pair: "_Pair") -> None:
        self._pairs.discard(pair)


class MemoryTransport:
    """One peer's presence on a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, peer: PeerId) -> None:
        self._network = network
        self._peer = peer
        self.handlers: dict[str, Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def peer_id(self) -> PeerId:
        """Ours."""
        return self._peer

    @property
    def addresses(self) -> Sequence[str]:
        """One made-up address."""
        return (f"/memory/0/p2p/{self._peer}",)

    async def serve(self, protocol: str, handler: Handler) -> None:
        """Take incoming streams of `protocol`."""
        self.handlers[protocol] = handler

    async def open(
        self,
        peer: PeerId,
        protocol: str,
        *,
        addresses: Sequence[str] = (),  # noqa: ARG002 - peers are known by id here
        timeout_s: float = 10.0,  # noqa: ARG002 - a dial answers at once
    ) -> "MemoryStream":
        """Open a stream.

        Raises:
            PeerUnreachable: The peer is not there, cut off, or does not talk the protocol.
        """
        await asyncio.sleep(0)
        return self._network._dial(self._peer, peer, protocol)  # noqa: SLF001 - one module

    async def close(self) -> None:
        """Leave the network."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        self._network.kill(self._peer)
        await asyncio.gather(*tasks, return_exceptions=True)

    def spawn(self, handler: Handler, stream: "MemoryStream") -> None:
        """Serve an incoming stream."""
        task = asyncio.create_task(_serve(handler, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel_handlers(self) -> None:
        """Stop serving at once."""
        for task in self._tasks:
            task.cancel()


async def _serve(handler: Handler, stream: "MemoryStream") -> None:
    try:
        await handler(stream)
    finally:
        await stream.close()


class _Pair:
    """The two ends of a stream and the pipe in each direction."""

    def __init__(self, network: MemoryNetwork, caller: PeerId, callee: PeerId) -> None:
        self.network = network
        self.ends = frozenset((caller, callee))
        there, back = _Pipe(self), _Pipe(self)
        self.near = MemoryStream(callee, back, there, self)
        self.far = MemoryStream(caller, there, back, self)
        self._pipes = (there, back)

    @property
    def frozen(self) -> bool:
        return self.network._frozen_now(self)  # noqa: SLF001 - one module

    def end(self) -> None:
        self.network._forget(self)  # noqa: SLF001 - one module
        for pipe in self._pipes:
            pipe.ended = True
            pipe.wake()

    def wake(self) -> None:
        for pipe in self._pipes:
            pipe.wake()


class _Pipe:
    """One direction: a bounded buffer and those who wait for it to change."""

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self._buffer = bytearray()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.ended = False

    def wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def read(self, count: int) -> bytes | None:
        """Exactly `count` bytes, or None when the pipe ends first."""
        while len(self._buffer) < count or (self._pair.frozen and not self.ended):
            if self.ended:
                return None
            await self._change()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        self.wake()
        return data

    def write_now(self, buffers: Sequence[Buffer]) -> bool:
        """Append if there is room and the network moves."""
        if self.ended or self._pair.frozen or len(self._buffer) > WINDOW_BYTES:
            return False
        for buffer in buffers:
            self._buffer += buffer
        self.wake()
        return True

    async def write(self, buffers: Sequence[Buffer]) -> bool:
        """Append, then wait for room; False when the pipe ended."""
        if self.ended:
            return False
        for buffer in buffers:
            self._buffer += buffer
        self.wake()
        while len(self._buffer) > WINDOW_BYTES and not self.ended:
            await self._change()
        return len(self._buffer) <= WINDOW_BYTES

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter


class MemoryStream:
    """One end of a stream."""

    def __init__(self, remote: PeerId, incoming: _Pipe, outgoing: _Pipe, pair: _Pair) -> None:
        self._remote = remote
        self._incoming = incoming
        self._outgoing = outgoing
        self._pair = pair
        self._closed = False

    @property
    def remote(self) -> PeerId:
        """Who is at the other end."""
        return self._remote

    async def read_exactly(self, count: int) -> bytes:
        """Exactly `count` bytes.

        Raises:
            PeerLost: The stream ended first.
        """
        data = None if self._closed else await self._incoming.read(count)
        if data is None:
            raise PeerLost(f"the stream with {self._remote} ended")
        return data

    def write_now(self, *buffers: Buffer) -> bool:
        """Send the buffers if there is room; see `Stream.write_now`."""
        return not self._closed and self._outgoing.write_now(buffers)

    async def write(self, *buffers: Buffer) -> None:
        """Send the buffers in order, as one piece; waits while the other end is slow.

        Raises:
            PeerLost: The stream is gone.
        """
        if self._closed or not await self._outgoing.write(buffers):
            raise PeerLost(f"the stream with {self._remote} ended")

    async def close(self) -> None:
        """End the stream; safe to call twice."""
        self._closed = True
        self._pair.end()
