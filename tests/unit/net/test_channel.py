"""Channels: handshake before anything else, whole messages, clear ends."""

import asyncio

import pytest

from helix_p2p.errors import DeadlineExceeded, DecodeError, HandshakeRefused, PeerLost
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.messages import GetPlan, Probe, ProbeReply
from helix_p2p.net.channel import Channel, accept_channel, open_channel
from helix_p2p.net.memory import MemoryNetwork
from helix_p2p.net.transport import Stream
from helix_p2p.wire.framing import encode_frame
from tests.unit.net.members import ANN, BEN, member_of

P = "/test"


async def test_messages_and_payloads_arrive_whole_and_in_order(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    seen = []

    async def serve(stream: Stream) -> None:
        async with await accept_channel(stream, member_of("s")) as channel:
            assert channel.remote == ANN
            for _ in range(3):
                message, payload = await channel.receive()
                seen.append((message, bytes(payload)))
            await channel.send(ProbeReply(3))

    await ben.serve(P, serve)
    big = bytes(range(256)) * 4000
    async with await open_channel(ann, BEN, P, member_of("s")) as channel:
        assert Role.PEER in channel.roles
        await channel.send(Probe(1))
        await channel.send(Probe(2), memoryview(big))
        await channel.send(Probe(3), b"end")
        assert (await channel.receive())[0] == ProbeReply(3)
    assert seen == [(Probe(1), b""), (Probe(2), big), (Probe(3), b"end")]


@pytest.mark.parametrize(
    ("theirs", "why"),
    [(member_of("other"), "swarm"), (member_of("s", model="n" * 64), "other weights")],
)
async def test_a_stranger_is_told_why_and_delivers_nothing(
    network: MemoryNetwork, theirs: object, why: str
) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    let_in = []
    refused = asyncio.Event()

    async def serve(stream: Stream) -> None:
        try:
            let_in.append(await accept_channel(stream, member_of("s")))
        except HandshakeRefused:
            refused.set()

    await ben.serve(P, serve)
    with pytest.raises(HandshakeRefused, match=f"refused us: .*{why}"):
        await open_channel(ann, BEN, P, theirs)  # type: ignore[arg-type]
    await refused.wait()
    assert not let_in


async def test_the_opener_refuses_too(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def serve(stream: Stream) -> None:
        channel = await accept_channel(stream, member_of("s", model=""))
        try:
            message, _payload = await channel.receive()
            ended.set_exception(AssertionError(f"received {message}"))
        except PeerLost as error:
            ended.set_result(error)

    ours = member_of("s").requiring(Role.PEER)  # one without a model is no peer
    await ben.serve(P, serve)
    with pytest.raises(HandshakeRefused, match="may not be a peer"):
        await open_channel(ann, BEN, P, ours)
    done, _ = await asyncio.wait([ended], timeout=1)
    assert done


async def test_silence_instead_of_a_hello_ends_in_time(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)

    async def mute(stream: Stream) -> None:
        await asyncio.Event().wait()

    await ben.serve(P, mute)
    with pytest.raises(PeerLost, match="did not say hello"):
        await open_channel(ann, BEN, P, member_of("s", timeout_s=0.02))
    await ben.close()


async def test_something_else_than_a_hello_is_refused(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(stream: Stream) -> None:
        try:
            await accept_channel(stream, member_of("s"))
        except HandshakeRefused as error:
            outcome.set_result(error.message)

    await ben.serve(P, serve)
    stream = await ann.open(BEN, P)
    await stream.write(*encode_frame(GetPlan()))
    assert "did not begin with a hello" in await outcome


async def test_a_cancelled_receive_loses_no_byte(network: MemoryNetwork) -> None:
    near, far = await _pair(network)
    head, payload = encode_frame(Probe(7), b"p" * 100)
    for cut in (5, len(head) - 3):  # inside the prefix, inside the message
        await far.write(head[:cut])
        with pytest.raises(DeadlineExceeded):
            await near.receive(timeout_s=0.01)
        await far.write(head[cut:])
        with pytest.raises(DeadlineExceeded):
            await near.receive(timeout_s=0.01)
        await far.write(payload)
        assert await near.receive(timeout_s=1) == (Probe(7), bytearray(b"p" * 100))


async def test_garbage_ends_the_channel_and_says_so(network: MemoryNetwork) -> None:
    near, far = await _pair(network)
    await far.write(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(DecodeError):
        await near.receive(timeout_s=1)
    with pytest.raises(PeerLost):
        await near.receive()
    reply, _payload = await far.receive(timeout_s=1)
    assert getattr(reply, "code", None) == DecodeError.code
    with pytest.raises(PeerLost):
        await far.receive(timeout_s=1)


async def test_after_close_everything_is_peer_lost(network: MemoryNetwork) -> None:
    near, far = await _pair(network)
    await near.close()
    await near.close()
    for channel in (near, far):
        with pytest.raises(PeerLost):
            await channel.receive(timeout_s=1)
        with pytest.raises(PeerLost):
            await channel.send(Probe())


async def _pair(network: MemoryNetwork) -> tuple[Channel, Channel]:
    ann, ben = network.join(ANN), network.join(BEN)
    accepted: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def serve(stream: Stream) -> None:
        channel = await accept_channel(stream, member_of("s"))
        accepted.set_result(channel)
        await asyncio.Event().wait()

    await ben.serve(P, serve)
    return await open_channel(ann, BEN, P, member_of("s")), await accepted
