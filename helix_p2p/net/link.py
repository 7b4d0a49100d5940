"""One link: our stream to a peer, or a peer's stream to us, and how it is judged.

    us ── messages, heartbeat with a number ──▶ peer      (our outgoing stream)
    us ◀── heartbeat: that number's echo, or just "I live"    (the same stream, the way back)

A killed peer ends its streams within 50 ms; a frozen one ends nothing, and even takes new streams
(libp2p, SIGSTOP). So both ends send a heartbeat every `heartbeat_s`, and a stream on which nothing
arrived for `silence_s` is lost. Silence is counted in time during which our own loop ran: after a
long stall of ours (an import, swapping, SIGSTOP) the others are heard first and judged then. Any
byte counts as life, so a large frame on a slow line breaks nothing. Streams of clients do the same,
only while answers are owed on them (`keep_alive`).

Always: one heartbeat's echo is waited for at a time, and stamped when it is written, so round trips
do not contain our own queue; a link is judged once.
"""

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from helix_p2p.errors import Cancelled, ConfigError, HelixError, PeerLost, ProtocolError, from_wire
from helix_p2p.membership.messages import ErrorReply, Heartbeat
from helix_p2p.net.channel import Channel
from helix_p2p.net.event_loop import next_tick
from helix_p2p.net.outbox import Outbox
from helix_p2p.net.transport import Buffer, size_bytes
from helix_p2p.types import PeerId
from helix_p2p.wire.framing import PAYLOAD_LIMIT_BYTES, encode_frame

GOODBYE = ErrorReply(Cancelled.code, "this link is no longer needed")
"""Tells a link that was closed on purpose from one that broke."""
TICKS_PER_HEARTBEAT = 4
RTT_SAMPLES = 9
"""The median of so many counts: the first sample of a link meets cold code (50 ms against 0.6 on
loopback), and single ones meet a busy loop."""


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Bounds and times.

    Attributes:
        heartbeat_s: Between two heartbeats.
        silence_s: Nothing heard for this long is a loss.
        dial_timeout_s: For dial and handshake.
        queue_frames: Most frames that wait for one peer.
        queue_bytes: Most bytes that wait for one peer.
        incoming_per_pool: Most incoming streams at once.
        payload_limit_bytes: Of one message that comes.
    """

    heartbeat_s: float = 0.5
    silence_s: float = 2.5  # a frozen peer is to be found, and routed around, within 3 s
    dial_timeout_s: float = 5.0
    queue_frames: int = 4096
    queue_bytes: int = 128 * 1024 * 1024
    incoming_per_pool: int = 1024
    payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES

    def __post_init__(self) -> None:
        if not 0 < 2 * self.heartbeat_s <= self.silence_s:
            raise ConfigError("a link's silence must last at least two heartbeats")


@dataclass(frozen=True, slots=True)
class LinkStats:
    """One outgoing link.

    Attributes:
        connected: Whether the handshake is done.
        rtt_s: Median of the last round trips, the other end's loop included; None until measured.
        rtt_min_s: Best round trip so far.
        sent_frames: Handed to the transport.
        sent_bytes: Likewise.
        queued_frames: Waiting.
        queued_bytes: Waiting.
    """

    connected: bool
    rtt_s: float | None
    rtt_min_s: float | None
    sent_frames: int
    sent_bytes: int
    queued_frames: int
    queued_bytes: int


class Watch:
    """Judges one stream: how long it has been silent, and whether it is over."""

    def __init__(self, peer: PeerId) -> None:
        self._peer = peer
        self._heard_s = 0.0
        self._silent_s = 0.0
        self._over = asyncio.Event()
        self._error: HelixError | None = None

    def tick(self, channel: Channel | None, awake_s: float, silence_s: float) -> None:
        """Count silence: `awake_s` more of our own running time has passed."""
        if channel is None:
            return  # a dial has its own deadline
        if channel.last_heard_s > self._heard_s:
            self._heard_s, self._silent_s = channel.last_heard_s, 0.0
            return
        self._silent_s += awake_s
        if self._silent_s >= silence_s:
            self.judge(PeerLost(f"{self._peer} has been silent for {self._silent_s:.1f} s"))

    def judge(self, error: HelixError | None) -> None:
        """End the stream; None when nobody is to be told."""
        if not self._over.is_set():
            self._error = error
            self._over.set()

    @property
    def over(self) -> bool:
        """Whether it is judged."""
        return self._over.is_set()

    async def verdict(self) -> None:
        """Wait for the judgement; raises the error if there is one."""
        await self._over.wait()
        if self._error is not None:
            raise self._error


async def keep_alive(
    channel: Channel,
    *,
    owed: Callable[[], bool],
    beat: Callable[[], None],
    heartbeat_s: float,
    silence_s: float,
) -> None:
    """Show life, and look for it, while something is owed on a stream; idle ones cost nothing.

    Args:
        channel: Judged by when bytes last came.
        owed: Whether anybody waits for anything now.
        beat: Queues a heartbeat; must not block.
        heartbeat_s: Between two of them.
        silence_s: Nothing heard for this long, while something was owed, is a loss.

    Raises:
        PeerLost: The other end has been silent for too long; the only way this ends by itself.
    """
    clock = asyncio.get_running_loop().time
    tick_s = heartbeat_s / TICKS_PER_HEARTBEAT
    watch, last_s, ticks = Watch(channel.remote), clock(), 0
    while not watch.over:
        await next_tick(tick_s)
        now_s = clock()
        awake_s, last_s = min(now_s - last_s, 2 * tick_s), now_s
        if not owed():
            watch, ticks = Watch(channel.remote), 0
            continue
        watch.tick(channel, awake_s, silence_s)
        if ticks % TICKS_PER_HEARTBEAT == 0:
            beat()
        ticks += 1
    await watch.verdict()


class Outgoing:
    """Our stream to a peer; messages wait here while it is being dialled."""

    def __init__(self, peer: PeerId, options: LinkOptions) -> None:
        self.peer = peer
        self.watch = Watch(peer)
        self.channel: Channel | None = None
        self.task: asyncio.Task[None] | None = None
        self._rtts_s: deque[float] = deque(maxlen=RTT_SAMPLES)
        self._rtt_min_s: float | None = None
        self._outbox = Outbox(limit_frames=options.queue_frames, limit_bytes=options.queue_bytes)
        self._wake = asyncio.Event()
        self._clock = time.perf_counter  # uvloop's own clock counts in milliseconds
        self._finishing = False
        self._beat_due = True
        self._number = 0
        self._asked_s: float | None = None
        self._sent_frames = 0
        self._sent_bytes = 0

    @property
    def rtt_s(self) -> float | None:
        """Median of the last round trips."""
        return statistics.median(self._rtts_s) if self._rtts_s else None

    @property
    def queued_bytes(self) -> int:
        """What waits to be sent."""
        return self._outbox.waiting_bytes

    def put(self, frame: tuple[Buffer, ...], *, urgent: bool) -> None:
        """Send an urgent frame at once where nothing waits; else queue it, or raise Busy."""
        if urgent and self._writes_now(frame):
            self._sent_bytes += sum(map(size_bytes, frame))
        else:
            self._sent_bytes += self._outbox.put(frame, urgent=urgent)
            self._wake.set()
        self._sent_frames += 1

    def attach(self, channel: Channel) -> None:
        """The dial succeeded."""
        self.channel = channel
        self._wake.set()

    def beat(self) -> None:
        """A heartbeat goes out with the next write."""
        self._beat_due = True
        self._wake.set()

    def finish(self) -> None:
        """Say goodbye once all is sent."""
        self._finishing = True
        self._wake.set()

    async def write(self) -> None:
        """Send what is queued, for as long as the link lives."""
        assert self.channel is not None
        while True:
            await self._wake.wait()
            self._wake.clear()
            while frames := self._next():
                await self.channel.write(*frames)
            if self._finishing:
                await self.channel.send(GOODBYE)
                return

    async def read(self) -> None:
        """Take heartbeats, which are all that comes this way."""
        assert self.channel is not None
        while True:
            message, _payload = await self.channel.receive()
            match message:
                case Heartbeat(echo=echo):
                    if echo and echo == self._number and self._asked_s is not None:
                        self._measured(self._clock() - self._asked_s)
                case ErrorReply():
                    raise from_wire(message.code, message.message, message.retry_after_s)
                case _:
                    raise ProtocolError(f"{type(message).__name__} came the wrong way on a link")

    def stats(self) -> LinkStats:
        """As of now."""
        return LinkStats(
            connected=self.channel is not None,
            rtt_s=self.rtt_s,
            rtt_min_s=self._rtt_min_s,
            sent_frames=self._sent_frames - len(self._outbox),
            sent_bytes=self._sent_bytes - self._outbox.waiting_bytes,
            queued_frames=len(self._outbox),
            queued_bytes=self._outbox.waiting_bytes,
        )

    def _writes_now(self, frame: tuple[Buffer, ...]) -> bool:
        if self._outbox or self._finishing or self.channel is None:
            return False
        return self.channel.write_now(*frame)

    def _next(self) -> list[Buffer]:
        frames = self._outbox.take()
        if not self._beat_due:
            return frames
        self._beat_due = False
        number = 0  # an echo is out already: just a sign of life
        if self._asked_s is None:
            self._number += 1
            number, self._asked_s = self._number, self._clock()
        return [*encode_frame(Heartbeat(number)), *frames]

    def _measured(self, sample_s: float) -> None:
        self._asked_s = None
        self._rtts_s.append(sample_s)
        self._rtt_min_s = min(sample_s, self._rtt_min_s or sample_s)


class Incoming:
    """A peer's stream to us; back go heartbeats only."""

    def __init__(self, peer: PeerId, channel: Channel) -> None:
        self.peer = peer
        self.channel = channel
        self.watch = Watch(peer)
        self._echo = 0
        self._spoke = False
        self._wake = asyncio.Event()

    def answer(self, heartbeat: Heartbeat) -> None:
        """The peer lives, and may want an echo."""
        if heartbeat.number:
            self._echo = heartbeat.number
            self._wake.set()

    def beat(self) -> None:
        """Show life, unless an echo just did."""
        if not self._spoke:
            self._wake.set()
        self._spoke = False

    async def write(self) -> None:
        """Send echoes and signs of life."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._spoke = True
            echo, self._echo = self._echo, 0
            await self.channel.send(Heartbeat(0, echo))
