"""The seam between helix-p2p and a network: authenticated byte streams to peers known by id.

Two implementations: libp2p through hivemind's daemon (`libp2p.py`) and memory (`memory.py`).
Frames, handshake and heartbeats are built once, above this seam (`channel.py`).

Always: `Stream.remote` is authenticated by the transport; a stream that ends gives `PeerLost` at
once, to reader and writer; every wait has a deadline.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from helix_p2p.types import PeerId

Buffer = bytes | bytearray | memoryview


def size_bytes(buffer: Buffer) -> int:
    """How many bytes a buffer holds; `len` of a memoryview counts its items."""
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


class Stream(Protocol):
    """One ordered, reliable, encrypted way in both directions."""

    @property
    def remote(self) -> PeerId:
        """Who is at the other end; authenticated."""

    async def read_exactly(self, count: int) -> bytes:
        """Exactly `count` bytes.

        Raises:
            PeerLost: The stream ended first.
        """

    def write_now(self, *buffers: Buffer) -> bool:
        """Send the buffers as one piece if that takes no waiting.

        Returns:
            False, and nothing is sent, when much waits to go out or the stream is gone.
        """

    async def write(self, *buffers: Buffer) -> None:
        """Send the buffers in order, as one piece; waits while the other end is slow.

        Raises:
            PeerLost: The stream is gone.
        """

    async def close(self) -> None:
        """End the stream; safe to call twice."""


Handler = Callable[[Stream], Awaitable[None]]
"""Serves one incoming stream; the stream is closed when it returns or raises."""


class Transport(Protocol):
    """A peer's presence on the network."""

    @property
    def peer_id(self) -> PeerId:
        """Ours."""

    @property
    def addresses(self) -> Sequence[str]:
        """Multiaddrs at which others reach us, with `/p2p/` and our id."""

    async def serve(self, protocol: str, handler: Handler) -> None:
        """Take incoming streams of `protocol`."""

    async def open(
        self,
        peer: PeerId,
        protocol: str,
        *,
        addresses: Sequence[str] = (),
        timeout_s: float = 10.0,
    ) -> Stream:
        """Open a stream.

        Args:
            peer: Whom to reach.
            protocol: What to talk.
            addresses: Where it may be, tried when the transport does not know it.
            timeout_s: For dial and negotiation together.

        Raises:
            PeerUnreachable: It is not to be reached in time, or does not talk the protocol.
        """

    async def close(self) -> None:
        """Leave the network and stop whatever was started for it."""
