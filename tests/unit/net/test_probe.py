"""Probes: what is measured, and the bounds on both sides."""

import asyncio

import pytest

from helix_p2p.errors import InvalidRequest, ProtocolError
from helix_p2p.membership.messages import Probe, ProbeReply
from helix_p2p.net.channel import Channel
from helix_p2p.net.memory import MemoryNetwork
from helix_p2p.net.probe import (
    PROBE_LIMIT_BYTES,
    ProbeOptions,
    answer_probe,
    measure,
    measure_some,
)
from helix_p2p.net.requests import Requests, serve_requests
from helix_p2p.net.transport import Buffer
from helix_p2p.wire.registry import Message
from tests.unit.net.members import ANN, BEN, EVE, member_of


async def test_round_trip_and_bandwidth_are_measured_within_bounds(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    sizes: list[tuple[int, int]] = []

    async def answer(_c: Channel, message: Message, payload: bytearray) -> tuple[Message, Buffer]:
        assert isinstance(message, Probe)
        sizes.append((len(payload), message.size_bytes))
        return answer_probe(message, payload)

    await serve_requests(ben, member_of("s"), answer)
    options = ProbeOptions(round_trips=2, first_bytes=1000, limit_bytes=4000, enough_s=10.0)
    async with Requests(ann, member_of("s")) as requests:
        [way] = await measure_some(requests, [EVE, BEN], options=options)  # EVE is not there
    assert sizes == [(0, 0)] * 3 + [(n, 0) for n in (1000, 2000, 4000)] + [
        (0, n) for n in (1000, 2000, 4000)
    ]
    assert way.peer == BEN
    assert 0 < way.rtt_s < 1
    assert way.there_bytes_per_s is not None
    assert way.there_bytes_per_s > 0
    assert way.back_bytes_per_s is not None
    assert way.back_bytes_per_s > 0
    await ben.close()


async def test_a_peer_that_sends_less_than_asked_is_caught(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)

    async def cheat(_c: Channel, _message: Message, payload: bytearray) -> tuple[Message, Buffer]:
        return ProbeReply(len(payload)), b""

    await serve_requests(ben, member_of("s"), cheat)
    async with Requests(ann, member_of("s")) as requests:
        with pytest.raises(ProtocolError):
            await measure(requests, BEN)
        assert (await measure(requests, BEN, bandwidth=False)).back_bytes_per_s is None
    await ben.close()


@pytest.mark.parametrize("size", [-1, PROBE_LIMIT_BYTES + 1])
def test_a_probe_for_too_much_is_refused(size: int) -> None:
    with pytest.raises(InvalidRequest):
        answer_probe(Probe(size), b"")


async def test_a_line_too_slow_for_a_transfer_still_has_a_bound(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)

    async def slow(_c: Channel, message: Message, payload: bytearray) -> tuple[Message, Buffer]:
        assert isinstance(message, Probe)
        if payload or message.size_bytes:
            await asyncio.Event().wait()
        return answer_probe(message, payload)

    await serve_requests(ben, member_of("s"), slow)
    options = ProbeOptions(first_bytes=1000, timeout_s=0.1)
    async with Requests(ann, member_of("s")) as requests:
        way = await measure(requests, BEN, options=options)
    assert (way.there_bytes_per_s, way.back_bytes_per_s) == (10_000.0, 10_000.0)
    await ben.close()
