"""go-libp2p's daemon (p2pd) as our child: start, talk to, and stop without a trace.

hivemind's own launcher leaves the daemon in our process group (Ctrl-C kills it before a graceful
leave), warns on Python 3.11, gives its bootstrap dial no deadline and leaks a socket on each failed
open; so the child is started here, and hivemind's `P2P` only attaches to it (`P2P.replicate`).

Control protocol: one unix connection per call, a varint length and a protobuf `Request`, back comes
a `Response`; after a granted STREAM_OPEN the connection is the stream
(github.com/learning-at-home/go-libp2p-daemon).

Always: the sockets lie in a private folder (0700) that goes with the daemon. The daemon ends with
the last persistent connection, so it never outlives us by more than seconds, even on SIGKILL
(measured: 2 s), and if we die before the first one, by `IDLE_TIMEOUT_S`.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from helix_p2p.errors import ConfigError, NetworkError, PeerUnreachable
from helix_p2p.net.daemon_start import (
    CONTROL_SOCKET,
    DaemonOptions,
    SocketFolder,
    make_folder,
    spawn,
    start_error,
)
from helix_p2p.net.lean_hivemind import Hivemind

STOP_TIMEOUT_S = 3.0
STREAM_LIMIT_BYTES = 1024 * 1024
"""asyncio reads this much ahead; its own 64 KiB stop and start the daemon's socket all the time."""
REPLY_LIMIT_BYTES = 4 * 1024 * 1024

log = logging.getLogger(__name__)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OnStream = Callable[[str, str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""(remote peer id, protocol, reader, writer) of an incoming stream."""


class Daemon:
    """A running p2pd."""

    def __init__(
        self, library: Hivemind, process: asyncio.subprocess.Process, folder: SocketFolder
    ):
        self._library = library
        self._process = process
        self._folder = folder
        self._log_task: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._stream_tasks: set[asyncio.Task[None]] = set()
        self._on_stream: OnStream | None = None
        self._stopped = False

    @classmethod
    async def start(
        cls, library: Hivemind, options: DaemonOptions, *, timeout_s: float
    ) -> "Daemon":
        """Start the daemon and wait until it listens.

        Raises:
            ConfigError: It cannot listen where it should, or does not start.
        """
        folder = make_folder()
        try:
            process = await spawn(library, options, folder.path)
        except BaseException:
            folder.remove()
            raise
        self = cls(library, process, folder)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait_until_ready(options)
        except BaseException as error:
            await asyncio.shield(self.stop())
            if isinstance(error, TimeoutError):
                message = f"the libp2p daemon did not start in {timeout_s:.0f} s"
                raise ConfigError(message, hint="try again on a less busy machine") from error
            raise
        self._log_task = asyncio.create_task(self._pass_log_on())
        return self

    @property
    def control_address(self) -> str:
        """Multiaddr of the control socket."""
        return f"/unix{self._control_path}"

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process.returncode is None and not self._stopped

    async def wait(self) -> None:
        """Wait until the daemon is gone, for whatever reason."""
        await self._process.wait()

    async def stop(self) -> None:
        """End the daemon and remove its sockets; safe to call twice."""
        self._stopped = True
        if self._server is not None:
            self._server.close()
        tasks = [task for task in self._stream_tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                self._signal(signal.SIGKILL)
        await self._process.wait()
        if self._log_task is not None:
            self._log_task.cancel()
            await asyncio.gather(self._log_task, return_exceptions=True)
        self._folder.remove()

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal without looking at the child first.

        The daemon may be ending already; `Process.terminate` polls, and so takes the exit status
        from asyncio's waiting thread, which then warns of an unknown child.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    async def identify(self) -> tuple[str, tuple[str, ...]]:
        """Our peer id and the addresses at which libp2p thinks others see us."""
        pb = self._library.messages
        response = await self._call(pb.Request(type=pb.Request.IDENTIFY))
        addresses = tuple(
            str(self._library.multiaddr_class(address)) for address in response.identify.addrs
        )
        return self._library.peer_id_class(response.identify.id).to_base58(), addresses

    async def connect(self, peer: str, addresses: Sequence[str], *, timeout_s: float) -> None:
        """Dial a peer at given addresses; at once when it is connected.

        Raises:
            PeerUnreachable: No address answers, or another peer does.
        """
        pb = self._library.messages
        with _dialling(peer, timeout_s):
            dial = pb.ConnectRequest(peer=self._peer_bytes(peer), addrs=self._encode(addresses))
            request = pb.Request(type=pb.Request.CONNECT, connect=dial)
            async with asyncio.timeout(timeout_s):
                await self._call(request)

    async def open_stream(self, peer: str, protocol: str, *, timeout_s: float) -> Connection:
        """Open a stream.

        Raises:
            PeerUnreachable: No way to the peer in time, or it does not talk the protocol.
        """
        pb = self._library.messages
        with _dialling(peer, timeout_s):
            stream = pb.StreamOpenRequest(peer=self._peer_bytes(peer), proto=[protocol])
            request = pb.Request(type=pb.Request.STREAM_OPEN, streamOpen=stream)
            async with asyncio.timeout(timeout_s):
                connection, _response = await self._request(request)
        return connection

    async def handle_streams(self, protocol: str, on_stream: OnStream) -> None:
        """Let the daemon pass incoming streams of `protocol` to us.

        Args:
            protocol: Its id.
            on_stream: The same for all protocols; serves one stream and closes it.
        """
        self._on_stream = on_stream
        if self._server is None:
            self._server = await asyncio.start_unix_server(
                self._accept, path=self._streams_path, limit=STREAM_LIMIT_BYTES
            )
        pb = self._library.messages
        address = self._library.multiaddr_class(f"/unix{self._streams_path}").to_bytes()
        handler = pb.StreamHandlerRequest(addr=address, proto=[protocol], balanced=False)
        await self._call(pb.Request(type=pb.Request.STREAM_HANDLER, streamHandler=handler))

    @property
    def _control_path(self) -> Path:
        return self._folder.path / CONTROL_SOCKET

    @property
    def _streams_path(self) -> Path:
        return self._folder.path / "streams"

    def _peer_bytes(self, peer: str) -> bytes:
        try:
            encoded: bytes = self._library.peer_id_class.from_base58(peer).to_bytes()
        except ValueError as error:
            raise NetworkError("that is not a peer id") from error
        return encoded

    def _encode(self, addresses: Sequence[str]) -> list[bytes]:
        """Binary multiaddrs; what this libp2p does not know is left out."""
        encoded = []
        for address in addresses:
            with contextlib.suppress(Exception):  # its errors have no common base
                encoded.append(self._library.multiaddr_class(address).to_bytes())
        return encoded

    async def _wait_until_ready(self, options: DaemonOptions) -> None:
        assert self._process.stdout is not None
        last = ""
        while line := await self._process.stdout.readline():
            last = line.decode(errors="replace").strip()
            if last.startswith("Peer ID:"):
                return
            log.debug("p2pd: %s", last)
        raise start_error(last, options)

    async def _pass_log_on(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # a line longer than asyncio's limit
            while line := await self._process.stdout.readline():
                log.debug("p2pd: %s", line.decode(errors="replace").rstrip())
            return
        while await self._process.stdout.read(65536):
            pass

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._take_stream(reader, writer))
        self._stream_tasks.add(task)
        task.add_done_callback(self._stream_served)

    def _stream_served(self, task: asyncio.Task[None]) -> None:
        self._stream_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("serving a stream failed", exc_info=error)

    async def _take_stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            info = self._library.messages.StreamInfo()
            info.ParseFromString(await _read_delimited(reader))
            peer = self._library.peer_id_class(info.peer).to_base58()
            assert self._on_stream is not None
            await self._on_stream(peer, info.proto, reader, writer)
        except (OSError, asyncio.IncompleteReadError) as error:
            log.debug("an incoming stream broke: %s", error)
        finally:
            writer.transport.abort()

    async def _call(self, request: Any) -> Any:
        (_reader, writer), response = await self._request(request)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return response

    async def _request(self, request: Any) -> tuple[Connection, Any]:
        """Ask the daemon; the connection stays open."""
        pb = self._library.messages
        try:
            reader, writer = await asyncio.open_unix_connection(
                str(self._control_path), limit=STREAM_LIMIT_BYTES
            )
        except OSError as error:
            raise NetworkError("the libp2p daemon is gone") from error
        try:
            writer.write(_delimited(request.SerializeToString()))
            await writer.drain()
            response = pb.Response()
            response.ParseFromString(await _read_delimited(reader))
        except (OSError, asyncio.IncompleteReadError) as error:
            writer.transport.abort()
            raise NetworkError("the libp2p daemon is gone") from error
        except BaseException:
            writer.transport.abort()
            raise
        if response.type == pb.Response.ERROR:
            writer.transport.abort()
            raise NetworkError(response.error.msg)
        return (reader, writer), response


@contextlib.contextmanager
def _dialling(peer: str, timeout_s: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise PeerUnreachable(f"{peer} did not answer in {timeout_s:g} s") from error
    except NetworkError as error:
        raise PeerUnreachable(f"{peer} cannot be reached: {_reason(error.message)}") from error


def _reason(message: str) -> str:
    """The daemon's words in one line, e.g. `connection refused`."""
    dials = re.findall(r"\* \[(\S+)\] ([^\n]+)", message)
    if dials:
        return "; ".join(f"{address}: {why.rsplit(': ', 1)[-1]}" for address, why in dials[:4])
    if "find any peer" in message or "routing: not found" in message:
        return "nobody knows its address"
    return " ".join(message.split())


def _delimited(body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes(length) + body


async def _read_delimited(reader: asyncio.StreamReader) -> bytes:
    size = shift = 0
    while True:
        (byte,) = await reader.readexactly(1)
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
        if size > REPLY_LIMIT_BYTES or shift > 28:
            raise OSError("not a reply of the libp2p daemon")
    if size > REPLY_LIMIT_BYTES:
        raise OSError("a reply of the libp2p daemon is too long")
    return await reader.readexactly(size)
