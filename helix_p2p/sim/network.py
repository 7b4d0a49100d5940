"""Links in virtual time: latency, bandwidth, loss, partitions; reliable streams as the swarm has.

A pair of peers has one stream per direction. It sends one message at a time; urgent ones go before
those that wait (decode before prefill, as in the outbox of `net`). A lost packet costs a repeated
sending, never a message: what is sent arrives, in order within its urgency, or the stream breaks.

Always: deterministic for a seed; a message between sides of a partition never arrives.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

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
    """

    latency_s: float
    bandwidth_bytes_per_s: float
    loss: float = 0.0


class _Message(NamedTuple):
    size_bytes: float
    deliver: Callable[..., None]
    args: tuple[Any, ...]


class _Stream:
    __slots__ = ("arrived_s", "bulk", "busy", "link", "urgent")

    def __init__(self, link: LinkModel) -> None:
        self.link = link
        self.busy = False
        self.urgent: deque[_Message] = deque()
        self.bulk: deque[_Message] = deque()
        self.arrived_s = [0.0, 0.0]


class Network:
    """All streams.

    Args:
        time: Whose clock they follow.
        links: By (from, to); a pair that is missing takes `default`.
        default: Of unlisted pairs.
        rng: Of losses.
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
        self.sent_bytes: dict[tuple[PeerId, PeerId], float] = {}

    def partition(self, sides: Mapping[PeerId, int]) -> None:
        """From now on only peers of the same side hear each other; unnamed ones are on side 0."""
        self._side = dict(sides)

    def apart(self, one: PeerId, other: PeerId) -> bool:
        """Whether a partition separates two peers."""
        return self._side.get(one, 0) != self._side.get(other, 0)

    def cut(self, peer: PeerId) -> None:
        """The peer's streams broke: what waits in them is gone."""
        for pair in [pair for pair in self._streams if peer in pair]:
            stream = self._streams[pair]
            stream.urgent.clear()
            stream.bulk.clear()

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
        if self.apart(source, target):
            return
        pair = (source, target)
        stream = self._streams.get(pair)
        if stream is None:
            stream = self._streams[pair] = _Stream(self._links.get(pair, self._default))
        self.sent_bytes[pair] = self.sent_bytes.get(pair, 0.0) + size_bytes
        message = _Message(size_bytes, deliver, args)
        if stream.busy:
            (stream.urgent if urgent else stream.bulk).append(message)
        else:
            self._put_on(stream, message, urgent=urgent)

    def _put_on(self, stream: _Stream, message: _Message, *, urgent: bool) -> None:
        link = stream.link
        sending_s = message.size_bytes / link.bandwidth_bytes_per_s
        stream.busy = True
        self._time.after(sending_s, self._sent, stream)
        arrives_s = self._time.now_s + sending_s + link.latency_s
        if link.loss > 0:
            resend_s = max(LEAST_RESEND_S, 2 * link.latency_s)
            while self._rng.random() < link.loss:
                arrives_s += resend_s
                resend_s *= 2
        place = 0 if urgent else 1
        stream.arrived_s[place] = arrives_s = max(arrives_s, stream.arrived_s[place])
        self._time.at(arrives_s, message.deliver, *message.args)

    def _sent(self, stream: _Stream) -> None:
        stream.busy = False
        if stream.urgent:
            self._put_on(stream, stream.urgent.popleft(), urgent=True)
        elif stream.bulk:
            self._put_on(stream, stream.bulk.popleft(), urgent=False)
