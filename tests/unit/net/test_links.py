"""Links: messages in order, losses told once and in time, quiet after close."""

import asyncio
from collections.abc import Callable
from typing import Self

import pytest

from helix_p2p.errors import (
    Busy,
    ConfigError,
    DecodeError,
    HandshakeRefused,
    HelixError,
    PeerLost,
    PeerUnreachable,
)
from helix_p2p.membership.messages import Heartbeat, Probe
from helix_p2p.net.channel import Channel
from helix_p2p.net.link import Incoming, LinkOptions
from helix_p2p.net.links import LinkPool
from helix_p2p.net.memory import MemoryNetwork, MemoryTransport
from helix_p2p.net.transport import Stream
from helix_p2p.types import PeerId
from helix_p2p.wire.registry import Message
from tests.unit.net.members import ANN, BEN, member_of

QUICK = LinkOptions(heartbeat_s=0.02, silence_s=0.1, dial_timeout_s=1.0)


class Member:
    """A transport, a pool, and all that its callbacks were told."""

    def __init__(
        self,
        network: MemoryNetwork,
        peer: PeerId,
        *,
        swarm: str = "s",
        options: LinkOptions = QUICK,
    ) -> None:
        self.transport: MemoryTransport = network.join(peer)
        self.received: list[tuple[PeerId, Message, bytes]] = []
        self.lost: list[tuple[PeerId, HelixError]] = []
        self.fail: Exception | None = None
        self._change = asyncio.Event()
        self.links = LinkPool(
            self.transport,
            member_of(swarm),
            on_message=self._on_message,
            on_lost=self._on_lost,
            options=options,
        )

    async def __aenter__(self) -> Self:
        await self.links.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.links.close()
        await self.transport.close()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._change.clear()
                await self._change.wait()

    def _on_message(self, peer: PeerId, message: Message, payload: bytearray) -> None:
        if self.fail is not None:
            raise self.fail
        self.received.append((peer, message, bytes(payload)))
        self._change.set()

    def _on_lost(self, peer: PeerId, error: HelixError) -> None:
        self.lost.append((peer, error))
        self._change.set()


async def test_messages_sent_before_the_dial_is_done_arrive_in_order(
    network: MemoryNetwork,
) -> None:
    async with Member(network, ANN) as ann, Member(network, BEN) as ben:
        for n in range(100):
            ann.links.send(BEN, Probe(n), bytes([n]))
        await ben.until(lambda: len(ben.received) == 100)
        assert ben.received == [(ANN, Probe(n), bytes([n])) for n in range(100)]
        ben.links.send(ANN, Probe(5))
        await ann.until(lambda: ann.received)
        assert (ann.lost, ben.lost) == ([], [])


async def test_urgent_messages_overtake_others(network: MemoryNetwork) -> None:
    async with Member(network, ANN) as ann, Member(network, BEN) as ben:
        for n in range(3):
            ann.links.send(BEN, Probe(n), bytes(1000), urgent=False)
        ann.links.send(BEN, Probe(9))
        await ben.until(lambda: len(ben.received) == 4)
        assert [message for _peer, message, _payload in ben.received] == [
            Probe(n) for n in (9, 0, 1, 2)
        ]


async def test_heartbeats_keep_an_idle_link_and_measure_it(network: MemoryNetwork) -> None:
    async with Member(network, ANN) as ann, Member(network, BEN) as ben:
        ann.links.send(BEN, Probe())
        await asyncio.sleep(5 * QUICK.silence_s)
        assert (ann.lost, ben.lost) == ([], [])
        stats = ann.links.stats()[BEN]
        assert stats.connected
        assert stats.rtt_min_s is not None
        assert stats.rtt_s is not None
        assert 0 < stats.rtt_min_s < 1.0
        assert (stats.sent_frames, stats.queued_frames) == (1, 0)


async def test_a_killed_peer_is_lost_at_once_and_only_once(network: MemoryNetwork) -> None:
    slow = LinkOptions(heartbeat_s=100.0, silence_s=1000.0)
    async with Member(network, ANN, options=slow) as ann, Member(network, BEN, options=slow) as ben:
        ann.links.send(BEN, Probe())
        ben.links.send(ANN, Probe())
        await ann.until(lambda: ann.received)
        await ben.until(lambda: ben.received)
        network.kill(BEN)
        await ann.until(lambda: ann.lost)
        await asyncio.sleep(0.01)
        [(peer, error)] = ann.lost
        assert peer == BEN
        assert isinstance(error, PeerLost)


async def test_a_frozen_peer_is_lost_after_the_silence_on_both_directions(
    network: MemoryNetwork,
) -> None:
    async with Member(network, ANN) as ann, Member(network, BEN) as ben:
        ann.links.send(BEN, Probe())  # ann notices by her outgoing link
        await ben.until(lambda: ben.received)
        network.freeze(BEN)
        await ann.until(lambda: ann.lost)
        assert "silent" in str(ann.lost[0][1])
        await ben.until(lambda: ben.lost)  # ben hears nothing either, on his incoming one
        network.thaw(BEN)
        ann.links.send(BEN, Probe(2))
        await ben.until(lambda: len(ben.received) == 2)
        assert [peer for peer, _ in ann.lost] == [BEN]


async def test_a_frozen_peer_that_is_dialled_is_lost_in_time(network: MemoryNetwork) -> None:
    quick_dial = LinkOptions(heartbeat_s=0.02, silence_s=0.1, dial_timeout_s=0.05)
    async with Member(network, ANN, options=quick_dial) as ann, Member(network, BEN):
        network.freeze(BEN)
        ann.links.send(BEN, Probe())
        await ann.until(lambda: ann.lost)
        assert "did not shake hands" in str(ann.lost[0][1])


async def test_a_failed_dial_is_a_loss_and_the_next_send_dials_anew(
    network: MemoryNetwork,
) -> None:
    async with Member(network, ANN) as ann:
        ann.links.send(BEN, Probe(1))
        await ann.until(lambda: ann.lost)
        assert isinstance(ann.lost[0][1], PeerUnreachable)
        async with Member(network, BEN) as ben:
            ann.links.send(BEN, Probe(2))
            await ben.until(lambda: ben.received)
            assert [message for _, message, _ in ben.received] == [Probe(2)]


async def test_a_stranger_gets_no_byte_in(network: MemoryNetwork) -> None:
    async with Member(network, ANN, swarm="other") as ann, Member(network, BEN) as ben:
        ann.links.send(BEN, Probe())
        await ann.until(lambda: ann.lost)
        assert isinstance(ann.lost[0][1], HandshakeRefused)
        assert (ben.received, ben.lost) == ([], [])


async def test_bad_input_is_told_to_the_sender_and_ends_the_link(network: MemoryNetwork) -> None:
    async with Member(network, ANN) as ann, Member(network, BEN) as ben:
        ben.fail = DecodeError("no such thing")
        ann.links.send(BEN, Probe())
        await ann.until(lambda: ann.lost)
        await ben.until(lambda: ben.lost)
        assert isinstance(ben.lost[0][1], DecodeError)
        assert ann.lost[0][0] == BEN


async def test_the_queue_is_bounded(network: MemoryNetwork) -> None:
    small = LinkOptions(heartbeat_s=0.02, silence_s=0.1, queue_frames=3)
    async with Member(network, ANN, options=small) as ann, Member(network, BEN) as ben:
        for n in range(3):
            ann.links.send(BEN, Probe(n))
        with pytest.raises(Busy):
            ann.links.send(BEN, Probe(3))
        await ben.until(lambda: len(ben.received) == 3)
        ann.links.send(BEN, Probe(3))
        await ben.until(lambda: len(ben.received) == 4)


async def test_a_dropped_link_delivers_what_waits_and_is_no_loss(network: MemoryNetwork) -> None:
    async with Member(network, ANN) as ann, Member(network, BEN) as ben:
        ann.links.send(BEN, Probe(1))
        ann.links.drop(BEN)
        await ben.until(lambda: ben.received)
        assert ann.links.stats() == {}
        await asyncio.sleep(2 * QUICK.silence_s)
        assert (ann.lost, ben.lost) == ([], [])


async def test_close_flushes_and_then_calls_nobody(network: MemoryNetwork) -> None:
    async with Member(network, BEN) as ben:
        async with Member(network, ANN) as ann:
            ann.links.send(BEN, Probe(1))
            ben.links.send(ANN, Probe(2))
            await ann.until(lambda: ann.received)
            ann.links.send(BEN, Probe(3))
            await ann.links.close()
            with pytest.raises(PeerLost):
                ann.links.send(BEN, Probe(4))
        await ben.until(lambda: len(ben.received) == 2 and ben.lost)
        assert ann.lost == []


def test_a_silence_shorter_than_two_heartbeats_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        LinkOptions(heartbeat_s=1.0, silence_s=1.5)


async def test_an_echo_is_not_lost_to_a_later_sign_of_life(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    far: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def keep(stream: Stream) -> None:
        far.set_result(Channel(stream))
        await asyncio.Event().wait()

    await ben.serve("/keep", keep)
    link = Incoming(BEN, Channel(await ann.open(BEN, "/keep")))
    link.answer(Heartbeat(7))
    link.answer(Heartbeat(0))
    writer = asyncio.create_task(link.write())
    assert await (await far).receive(timeout_s=5) == (Heartbeat(0, 7), bytearray())
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await ben.close()


async def test_a_payload_beyond_what_the_links_carry_loses_the_link_unread(
    network: MemoryNetwork,
) -> None:
    small = LinkOptions(heartbeat_s=0.02, silence_s=0.1, dial_timeout_s=1.0, payload_limit_bytes=10)
    async with Member(network, ANN) as ann, Member(network, BEN, options=small) as ben:
        ann.links.send(BEN, Probe(1), bytes(10))
        await ben.until(lambda: len(ben.received) == 1)
        ann.links.send(BEN, Probe(2), bytes(11))
        await ben.until(lambda: len(ben.lost) == 1)
        assert isinstance(ben.lost[0][1], DecodeError)
        assert len(ben.received) == 1
