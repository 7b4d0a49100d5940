"""How far and how wide the way to a peer is: round trips and bytes per second, measured briefly.

The planner needs round trips between peers and each peer's uplink and downlink; what others
measured beats what a peer claims. A probe is a request like any other (`requests.py`): an empty one
gives a round trip, one with payload the bandwidth there, one that asks for payload the way back.

Always: bounded in bytes and time on both sides; transfers double in size until they take long
enough to mean something, so a slow line is not filled and a fast one not underestimated; the round
trip is taken off the time of a transfer.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from helix_p2p.errors import DeadlineExceeded, HelixError, InvalidRequest, ProtocolError
from helix_p2p.membership.messages import Probe, ProbeReply
from helix_p2p.net.requests import Requests
from helix_p2p.net.transport import Buffer, size_bytes
from helix_p2p.types import PeerId

PROBE_LIMIT_BYTES = 8 * 1024 * 1024
"""What one probe may carry either way; the answering side refuses more."""


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """Bounds of one measurement.

    Attributes:
        round_trips: So many; the best one counts, the others met some queue.
        first_bytes: Of the first transfer.
        limit_bytes: Of the largest transfer.
        enough_s: A transfer that took this long is taken as it is.
        timeout_s: For each request.
    """

    round_trips: int = 5
    first_bytes: int = 64 * 1024
    limit_bytes: int = 4 * 1024 * 1024
    enough_s: float = 0.2
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """The way to one peer and back.

    Attributes:
        peer: Which.
        rtt_s: Best round trip of an empty request.
        there_bytes_per_s: From us to it; None when it was not measured.
        back_bytes_per_s: From it to us; None when it was not measured.
    """

    peer: PeerId
    rtt_s: float
    there_bytes_per_s: float | None = None
    back_bytes_per_s: float | None = None


async def measure(
    requests: Requests,
    peer: PeerId,
    *,
    addresses: Sequence[str] = (),
    bandwidth: bool = True,
    options: ProbeOptions | None = None,
) -> Measurement:
    """Measure the way to one peer.

    Args:
        requests: How to ask.
        peer: Whom.
        addresses: Where it may be.
        bandwidth: Measure transfers too, not only round trips.
        options: Bounds.

    Raises:
        NetworkError: It is not to be reached, or fell silent.
        ProtocolError: It does not answer as it should.
    """
    options = options or ProbeOptions()
    clock = time.perf_counter  # uvloop's own clock stands still within a turn, and counts in ms
    where = tuple(addresses)

    async def exchange(there_bytes: int, back_bytes: int) -> float:
        started_s = clock()
        reply, payload = await requests.ask(
            peer,
            Probe(back_bytes),
            bytes(there_bytes),
            timeout_s=options.timeout_s,
            addresses=where,
        )
        if reply != ProbeReply(there_bytes) or len(payload) != back_bytes:
            raise ProtocolError(f"{peer} does not answer probes as it should")
        return clock() - started_s

    await exchange(0, 0)  # dial and handshake are not part of the way
    rtt_s = min([await exchange(0, 0) for _ in range(options.round_trips)])
    if not bandwidth:
        return Measurement(peer, rtt_s)
    there = await _bandwidth(lambda size: exchange(size, 0), rtt_s, options)
    back = await _bandwidth(lambda size: exchange(0, size), rtt_s, options)
    return Measurement(peer, rtt_s, there, back)


async def measure_some(
    requests: Requests,
    peers: Sequence[PeerId],
    *,
    addresses: Callable[[PeerId], Sequence[str]] = lambda _peer: (),
    options: ProbeOptions | None = None,
) -> tuple[Measurement, ...]:
    """Measure several peers, one after another so that transfers do not share the line.

    Returns:
        One for each that answered; the others are simply not among them.
    """
    measured = []
    for peer in peers:
        try:
            measured.append(
                await measure(requests, peer, addresses=addresses(peer), options=options)
            )
        except HelixError:
            continue
    return tuple(measured)


def answer_probe(probe: Probe, payload: Buffer) -> tuple[ProbeReply, bytes]:
    """The other side of `measure`; the answer to be sent.

    Raises:
        InvalidRequest: More is asked for than a probe may carry.
    """
    received_bytes = size_bytes(payload)
    if not 0 <= probe.size_bytes <= PROBE_LIMIT_BYTES or received_bytes > PROBE_LIMIT_BYTES:
        raise InvalidRequest(f"a probe carries at most {PROBE_LIMIT_BYTES} bytes")
    return ProbeReply(received_bytes), bytes(probe.size_bytes)


async def _bandwidth(
    transfer: Callable[[int], Awaitable[float]], rtt_s: float, options: ProbeOptions
) -> float:
    """Bytes per second of the largest transfer that was needed; TCP's slow start is in it."""
    size = options.first_bytes
    best_bytes_per_s = 0.0
    while True:
        try:
            took_s = await transfer(size)
        except DeadlineExceeded:  # the line is slower than this, which is an answer too
            return best_bytes_per_s or size / options.timeout_s
        best_bytes_per_s = max(best_bytes_per_s, size / max(took_s - rtt_s, 0.1 * took_s))
        if took_s >= options.enough_s or 2 * size > options.limit_bytes:
            return best_bytes_per_s
        size *= 2
