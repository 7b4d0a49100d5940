"""The real network: libp2p through go-libp2p's daemon, which hivemind ships.

Streams are encrypted and authenticated by peer id (TLS 1.3 or Noise), cross NATs by port mapping,
hole punching and relays, and reach us over a unix socket from the daemon. A peer whose process
dies ends its streams within 50 ms (measured with SIGKILL); one that is frozen does not show at all,
which is why links have heartbeats (`links.py`).

Always: one daemon per transport, ended by `close`; one identity for streams and DHT alike; every
dial has a deadline; a broken stream is `PeerLost`, to reader and writer.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from helix_p2p.errors import ConfigError, NetworkError, PeerLost, PeerUnreachable
from helix_p2p.identity import Identity
from helix_p2p.net import lean_hivemind
from helix_p2p.net.daemon import Daemon
from helix_p2p.net.daemon_start import DaemonOptions
from helix_p2p.net.transport import Buffer, Handler, size_bytes
from helix_p2p.types import PeerId

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
JOIN_BYTES = 128 * 1024
"""Up to here several buffers are copied into one write: a second system call costs more."""
WAITING_BYTES = 64 * 1024
"""With less than this on its way to the daemon, `write_now` adds to it."""
CLOSE_TIMEOUT_S = 1.0
STREAMS_PER_PEER = 64
STREAMS = 4096
"""Most incoming streams at once; nobody needs more, and each costs a descriptor and buffers."""

log = logging.getLogger(__name__)


class Libp2pTransport:
    """Our presence on libp2p."""

    def __init__(self, identity: Identity, daemon: Daemon, p2p: Any) -> None:
        self._identity = identity
        self._daemon = daemon
        self._p2p = p2p
        self._addresses: tuple[str, ...] = ()
        self._handlers: dict[str, Handler] = {}
        self._bootstrap_tasks: set[asyncio.Task[None]] = set()
        self._streams_from: Counter[PeerId] = Counter()
        self._closed = False

    @classmethod
    async def start(
        cls,
        identity: Identity,
        *,
        listen: Sequence[str] = LOOPBACK,
        bootstrap: Sequence[str] = (),
        may_be_first: bool = False,
        announce: Sequence[str] = (),
        nat: bool = False,
        startup_timeout_s: float = 30.0,
        bootstrap_timeout_s: float = 10.0,
        daemon_threads: int | None = 1,
        verbose: bool = False,
    ) -> "Libp2pTransport":
        """Start the daemon and reach a bootstrap node.

        Args:
            identity: Our key; its peer id is our name on the network.
            listen: Multiaddrs; port 0 takes any free one.
            bootstrap: Multiaddrs with `/p2p/`; all are tried at once, one suffices.
            may_be_first: Start even if none of them answers: others will dial us.
            announce: Multiaddrs to tell others instead of what libp2p finds out.
            nat: Port mapping, reachability checks and relays; off on loopback and in tests.
            startup_timeout_s: For the daemon to listen.
            bootstrap_timeout_s: For the first bootstrap node to answer.
            daemon_threads: GOMAXPROCS of the daemon; 1 saves about 12 % CPU, None leaves it to Go
                (a relay or a bootstrap node of a large swarm).
            verbose: Pass the daemon's log on, at DEBUG.

        Raises:
            ConfigError: hivemind is missing, an address is malformed, or its port is in use.
            PeerUnreachable: No bootstrap node answered.
        """
        library = await asyncio.get_running_loop().run_in_executor(None, lean_hivemind.load)
        nodes = [(peer_of_address(address), address) for address in bootstrap]
        for address in (*listen, *announce, *bootstrap):
            _check_address(library, address)
        others = [(peer, address) for peer, address in nodes if peer != identity.peer_id]
        options = DaemonOptions(
            identity=identity,
            listen=listen,
            announce=announce,
            relays=[address for _peer, address in others] if nat else (),
            nat=nat,
            threads=daemon_threads,
            verbose=verbose,
        )
        daemon = await Daemon.start(library, options, timeout_s=startup_timeout_s)
        try:
            p2p = await library.p2p_class.replicate(library.multiaddr_class(daemon.control_address))
            self = cls(identity, daemon, p2p)
        except BaseException:
            await asyncio.shield(daemon.stop())
            raise
        try:
            await self.refresh_addresses()
            if others:
                try:
                    await self.reach(bootstrap, timeout_s=bootstrap_timeout_s)
                except PeerUnreachable as error:
                    if not may_be_first:
                        raise
                    log.info("nobody known from before answers: %s", error)
        except BaseException:
            await asyncio.shield(self.close())
            raise
        return self

    @property
    def peer_id(self) -> PeerId:
        """Ours."""
        return self._identity.peer_id

    @property
    def addresses(self) -> Sequence[str]:
        """Multiaddrs at which others reach us, as of the last `refresh_addresses`."""
        return self._addresses

    @property
    def daemon_pid(self) -> int:
        """The daemon's process id."""
        return self._daemon.pid

    @property
    def hivemind_p2p(self) -> Any:
        """The handle that hivemind has of the same daemon, for the DHT."""
        return self._p2p

    async def refresh_addresses(self) -> Sequence[str]:
        """Ask libp2p where others see us; changes behind NAT."""
        peer, addresses = await self._daemon.identify()
        assert peer == self.peer_id, "the daemon runs under another identity"
        self._addresses = tuple(f"{address}/p2p/{peer}" for address in addresses)
        return self._addresses

    async def serve(self, protocol: str, handler: Handler) -> None:
        """Take incoming streams of `protocol`."""
        self._handlers[protocol] = handler
        await self._daemon.handle_streams(protocol, self._on_stream)

    async def open(
        self,
        peer: PeerId,
        protocol: str,
        *,
        addresses: Sequence[str] = (),
        timeout_s: float = 10.0,
    ) -> "Libp2pStream":
        """Open a stream; see `Transport.open`.

        Raises:
            PeerUnreachable: It is not to be reached in time, or does not talk the protocol.
        """
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        if self._closed:
            raise PeerUnreachable("this transport is closed")
        bare = [address.rpartition("/p2p/")[0] or address for address in addresses]
        if bare:
            await self._daemon.connect(peer, bare, timeout_s=timeout_s)
        left_s = max(0.001, deadline_s - asyncio.get_running_loop().time())
        reader, writer = await self._daemon.open_stream(peer, protocol, timeout_s=left_s)
        return Libp2pStream(peer, reader, writer)

    async def wait_down(self) -> None:
        """Return when the daemon is gone, whether closed or crashed."""
        await self._daemon.wait()

    async def close(self) -> None:
        """Leave the network and stop the daemon; safe to call twice."""
        self._closed = True
        for task in self._bootstrap_tasks:
            task.cancel()
        await asyncio.gather(*self._bootstrap_tasks, return_exceptions=True)
        control = self._p2p._client.control  # noqa: SLF001 - hivemind only cancels these, never waits
        await self._p2p.shutdown()
        tasks = [task for task in (control._read_task, control._write_task) if task]  # noqa: SLF001
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._daemon.stop()

    async def reach(self, addresses: Sequence[str], *, timeout_s: float = 10.0) -> None:
        """Dial all these nodes at once and go on with the first that answers.

        Args:
            addresses: Multiaddrs with `/p2p/`; libp2p forgets unused ones after minutes, so this
                is also the way back after a long separation.
            timeout_s: For each.

        Raises:
            PeerUnreachable: None answered.
        """
        nodes = [(peer_of_address(address), address) for address in addresses]
        tasks = [
            asyncio.create_task(
                self._daemon.connect(peer, [address.rpartition("/p2p/")[0]], timeout_s=timeout_s)
            )
            for peer, address in nodes
            if peer != self.peer_id
        ]
        self._bootstrap_tasks.update(tasks)
        for task in tasks:
            task.add_done_callback(self._forget_bootstrap)
        reasons = []
        for next_done in asyncio.as_completed(tasks):
            try:
                await next_done
                break
            except NetworkError as error:
                reasons.append(error.message)
        else:
            raise PeerUnreachable(
                f"no bootstrap node answered ({len(tasks)} tried): {'; '.join(reasons[:3])}",
                hint="check the address, and that the bootstrap node runs",
            )

    def _forget_bootstrap(self, task: asyncio.Task[None]) -> None:
        self._bootstrap_tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.info("a bootstrap node did not answer: %s", task.exception())

    async def _on_stream(
        self,
        peer: str,
        protocol: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        remote = PeerId(peer)
        stream = Libp2pStream(remote, reader, writer)
        if (
            self._streams_from[remote] >= STREAMS_PER_PEER
            or self._streams_from.total() >= STREAMS
            or protocol not in self._handlers
        ):
            log.info("a stream from %s was not taken: too many", remote)
            return  # the daemon's side aborts it
        self._streams_from[remote] += 1
        try:
            await self._handlers[protocol](stream)
        except NetworkError as error:
            log.debug("a stream from %s ended: %s", peer, error)
        finally:
            self._streams_from[remote] -= 1
            if not self._streams_from[remote]:
                del self._streams_from[remote]
            await stream.close()


class Libp2pStream:
    """One stream, carried to the daemon by a unix socket."""

    __slots__ = ("_closed", "_reader", "_remote", "_writer")

    def __init__(
        self, remote: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._remote = remote
        self._reader = reader
        self._writer = writer
        self._closed = False

    @property
    def remote(self) -> PeerId:
        """Who is at the other end; authenticated by libp2p."""
        return self._remote

    async def read_exactly(self, count: int) -> bytes:
        """Exactly `count` bytes; what came before a cancellation is not lost.

        Raises:
            PeerLost: The stream ended first.
        """
        try:
            return await self._reader.readexactly(count)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise PeerLost(f"the stream with {self._remote} ended") from error

    def write_now(self, *buffers: Buffer) -> bool:
        """Send the buffers if little waits before them; see `Stream.write_now`."""
        transport = self._writer.transport
        if self._closed or self._reader.at_eof() or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > WAITING_BYTES:
            return False
        try:
            self._write(buffers)
        except (OSError, RuntimeError):  # whoever waits for the stream hears of it
            return False
        return True

    async def write(self, *buffers: Buffer) -> None:
        """Send the buffers as one piece; they must not change afterwards.

        Raises:
            PeerLost: The stream is gone.
        """
        if self._closed or self._reader.at_eof() or self._writer.is_closing():
            raise PeerLost(f"the stream with {self._remote} ended")
        try:
            self._write(buffers)
            await self._writer.drain()
        except (OSError, RuntimeError) as error:  # uvloop: RuntimeError on a closed transport
            raise PeerLost(f"the stream with {self._remote} ended") from error

    def _write(self, buffers: Sequence[Buffer]) -> None:
        if len(buffers) == 1:
            self._writer.write(buffers[0])
        elif sum(map(size_bytes, buffers)) <= JOIN_BYTES:
            self._writer.write(b"".join(buffers))
        else:
            for buffer in buffers:
                self._writer.write(buffer)

    async def close(self) -> None:
        """End the stream once what was written is out, or after a second; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._reader.at_eof():
                self._writer.transport.abort()
            self._writer.close()
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass
        finally:
            self._writer.transport.abort()


def _check_address(library: lean_hivemind.Hivemind, address: str) -> Any:
    try:
        return library.multiaddr_class(address)
    except Exception as error:  # its errors have no common base
        raise ConfigError(
            f"not a multiaddr: {address!r}", hint="it looks like /ip4/203.0.113.7/tcp/4001"
        ) from error


def peer_of_address(address: str) -> PeerId:
    """The peer id at the end of a multiaddr.

    Raises:
        ConfigError: There is none.
    """
    where, separator, peer = address.rpartition("/p2p/")
    if not separator or not where or not peer or "/" in peer:
        raise ConfigError(
            f"a bootstrap address ends with /p2p/ and a peer id: {address!r}",
            hint="copy the join line that the bootstrap node printed",
        )
    return PeerId(peer)
