"""Links in virtual time: latency, bandwidth, loss, partitions; reliable streams as the swarm has.

A pair of peers has one stream per direction. It sends one message at a time; urgent ones go before
those that wait, with a turn for the others now and then, as in the outbox of `net`. A lost packet
costs a repeated sending, never a message: what is sent arrives, in order within its urgency, or the
stream breaks.

Always: deterministic for a seed; a message between sides of a partition never arrives; a message on
an idle stream costs one event, its arrival.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from helix_p2p.net.outbox import URGENT_IN_A_ROW
from helix_p2p.sim.clock import VirtualTime
from helix_p2p.types import PeerId

LEAST_RESEND_S = 0.2
"""TCP's and QUIC's usual least wait before a packet counts as lost."""


@dataclass(frozen=True, slots=True)
class LinkModel:
    """One direction of a pair.

    Attributes:
        latency_s: One way.
        bandwidth_bytes_per_s: Of the stream.
        loss: Chance that a message must be sent again.
        jitter_s: Up to so much more latency, drawn for each message; order is kept.
    """

    latency_s: float
    bandwidth_bytes_per_s: float
    loss: float = 0.0
    jitter_s: float = 0.0


_Message = tuple[float, Callable[..., None], tuple[Any, ...]]
"""Bytes, and what is to be called with what when they arrive."""


class _Stream:
    __slots__ = (
        "arrived_s",
        "bulk",
        "free_at_s",
        "link",
        "queued_bytes",
        "sent_bytes",
        "urgent",
        "urgent_in_a_row",
        "waits",
    )

    def __init__(self, link: LinkModel) -> None:
        self.link = link
        self.free_at_s = 0.0
        self.waits = False
        self.urgent: deque[_Message] = deque()
        self.bulk: deque[_Message] = deque()
        self.urgent_in_a_row = 0
        self.arrived_s = [0.0, 0.0]
        self.queued_bytes = 0.0
        self.sent_bytes = 0.0


class Network:
    """All streams.

    Args:
        time: Whose clock they follow.
        links: By (from, to); a pair that is missing takes `default`.
        default: Of unlisted pairs.
        rng: Of losses and jitter.
    """

    def __init__(
        self,
        time: VirtualTime,
        links: Mapping[tuple[PeerId, PeerId], LinkModel],
        default: LinkModel,
        rng: Random,
    ) -> None:
        self._time = time
        self._links = links
        self._default = default
        self._rng = rng
        self._streams: dict[tuple[PeerId, PeerId], _Stream] = {}
        self._side: dict[PeerId, int] = {}

    def partition(self, sides: Mapping[PeerId, int]) -> None:
        """From now on only peers of the same side hear each other; unnamed ones are on side 0."""
        self._side = dict(sides)

    def apart(self, one: PeerId, other: PeerId) -> bool:
        """Whether a partition separates two peers."""
        side = self._side
        return bool(side) and side.get(one, 0) != side.get(other, 0)

    def cut(self, peer: PeerId) -> None:
        """The peer's streams broke: what waits in them is gone."""
        for pair, stream in self._streams.items():
            if peer in pair:
                stream.urgent.clear()
                stream.bulk.clear()
                stream.queued_bytes = 0.0

    def post(
        self,
        source: PeerId,
        target: PeerId,
        size_bytes: float,
        deliver: Callable[..., None],
        *args: object,
    ) -> None:
        """Send a small message that waits for no other, as membership's own streams do."""
        if self._side and self.apart(source, target):
            return
        link = self._links.get((source, target), self._default)
        arrives_s = self._time.now_s + size_bytes / link.bandwidth_bytes_per_s + link.latency_s
        if link.loss > 0:
            resend_s = max(LEAST_RESEND_S, 2 * link.latency_s)
            while self._rng.random() < link.loss:
                arrives_s += resend_s
                resend_s *= 2
        self._time.at(arrives_s, deliver, *args)

    def queued_bytes(self, source: PeerId, target: PeerId) -> float:
        """How much waits to be sent."""
        stream = self._streams.get((source, target))
        return 0.0 if stream is None else stream.queued_bytes

    def sent_bytes(self) -> dict[tuple[PeerId, PeerId], float]:
        """How much every stream was given."""
        return {pair: stream.sent_bytes for pair, stream in self._streams.items()}

    def send(
        self,
        source: PeerId,
        target: PeerId,
        size_bytes: float,
        deliver: Callable[..., None],
        *args: object,
        urgent: bool = True,
    ) -> None:
        """Send a message; `deliver(*args)` is called when it arrives."""
        if self._side and self.apart(source, target):
            return
        pair = (source, target)
        stream = self._streams.get(pair)
        if stream is None:
            stream = self._streams[pair] = _Stream(self._links.get(pair, self._default))
        stream.sent_bytes += size_bytes
        now_s = self._time.now_s
        if not stream.waits and stream.free_at_s <= now_s:
            arrives_s = self._arrival(stream, now_s, size_bytes, 0 if urgent else 1)
            self._time.at(arrives_s, deliver, *args)
            return
        (stream.urgent if urgent else stream.bulk).append((size_bytes, deliver, args))
        stream.queued_bytes += size_bytes
        if not stream.waits:
            stream.waits = True
            self._time.at(stream.free_at_s, self._next, stream)

    def send_in_order(
        self,
        source: PeerId,
        target: PeerId,
        size_bytes: float,
        deliver: Callable[..., None],
        *args: object,
    ) -> None:
        """Send a message on a stream where none overtakes another, as clients' streams are."""
        arrives_s = self.arrival_in_order(source, target, size_bytes)
        if arrives_s is not None:
            self._time.at(arrives_s, deliver, *args)

    def arrival_in_order(self, source: PeerId, target: PeerId, size_bytes: float) -> float | None:
        """Send something on such a stream; when it arrives, None where it never does.

        When it goes on the stream is known at once, so it never costs a second event.
        """
        if self._side and self.apart(source, target):
            return None
        stream = self._streams.get((source, target))
        if stream is None:
            link = self._links.get((source, target), self._default)
            stream = self._streams[source, target] = _Stream(link)
        stream.sent_bytes += size_bytes
        return self._arrival(stream, max(stream.free_at_s, self._time.now_s), size_bytes, 0)

    def _arrival(self, stream: _Stream, begins_s: float, size_bytes: float, lane: int) -> float:
        link = stream.link
        stream.free_at_s = sent_s = begins_s + size_bytes / link.bandwidth_bytes_per_s
        arrives_s = sent_s + link.latency_s
        if link.jitter_s > 0:
            arrives_s += link.jitter_s * self._rng.random()
        if link.loss > 0:
            resend_s = max(LEAST_RESEND_S, 2 * link.latency_s)
            while self._rng.random() < link.loss:
                arrives_s += resend_s
                resend_s *= 2
        if arrives_s < stream.arrived_s[lane]:
            return stream.arrived_s[lane]
        stream.arrived_s[lane] = arrives_s
        return arrives_s

    def _next(self, stream: _Stream) -> None:
        """The stream is free: the next message goes on it, an urgent one where it may."""
        turn = stream.urgent_in_a_row >= URGENT_IN_A_ROW
        if stream.urgent and not (turn and stream.bulk):
            stream.urgent_in_a_row += 1
            lane, message = 0, stream.urgent.popleft()
        elif stream.bulk:
            stream.urgent_in_a_row = 0
            lane, message = 1, stream.bulk.popleft()
        else:
            stream.waits = False
            return
        size_bytes, deliver, args = message
        stream.queued_bytes -= size_bytes
        arrives_s = self._arrival(stream, self._time.now_s, size_bytes, lane)
        self._time.at(arrives_s, deliver, *args)
        if stream.urgent or stream.bulk:
            self._time.at(stream.free_at_s, self._next, stream)
        else:
            stream.waits = False
