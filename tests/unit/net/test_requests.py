"""Requests: answered in time or a typed error, over channels that are reused."""

import asyncio
import gc
from collections.abc import MutableMapping

import pytest

from helix_p2p.errors import DeadlineExceeded, HandshakeRefused, NotServing, PeerUnreachable
from helix_p2p.membership.messages import FileReply, GetFile, GetPlan, Hello
from helix_p2p.net.channel import Channel, Membership
from helix_p2p.net.memory import MemoryNetwork
from helix_p2p.net.requests import Requests, serve_requests
from helix_p2p.net.transport import Buffer
from helix_p2p.types import PeerId
from helix_p2p.wire.registry import Message
from tests.unit.net.members import ANN, BEN, EVE, member_of


async def _answer(channel: Channel, message: Message, payload: bytearray) -> tuple[Message, Buffer]:
    match message:
        case GetFile("slow"):
            await asyncio.Event().wait()
        case GetFile(name):
            return FileReply(name, found=True), b"file of " + channel.remote.encode()
    raise NotServing("not here", retry_after_s=2.0)


async def test_a_request_gets_its_answer_and_reuses_the_channel(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    greetings = 0
    theirs = member_of("s")

    def counting_hello() -> Hello:
        nonlocal greetings
        greetings += 1
        return theirs.hello()

    ours = Membership(counting_hello, theirs.check)
    await serve_requests(ben, theirs, _answer)
    async with Requests(ann, ours) as requests:
        for name in ("a", "b", "c"):
            reply, payload = await requests.ask(BEN, GetFile(name))
            assert reply == FileReply(name, found=True)
            assert payload == b"file of " + ANN.encode()
        assert greetings == 1
        many = [requests.ask(BEN, GetFile(str(n))) for n in range(20)]
        assert [r.name for r, _ in await asyncio.gather(*many) if isinstance(r, FileReply)] == [
            str(n) for n in range(20)
        ]
        assert greetings <= 3
    await ben.close()


async def test_nothing_is_kept_of_peers_that_cannot_be_reached(network: MemoryNetwork) -> None:
    async with Requests(network.join(ANN), member_of("s")) as requests:
        for number in range(20):
            with pytest.raises(PeerUnreachable):
                await requests.ask(PeerId(f"nobody{number}"), GetPlan())
        gc.collect()
        assert not [
            kept for kept in vars(requests).values() if isinstance(kept, MutableMapping) and kept
        ]


async def test_an_error_reply_comes_out_as_that_error(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    await serve_requests(ben, member_of("s"), _answer)
    async with Requests(ann, member_of("s")) as requests:
        with pytest.raises(NotServing) as caught:
            await requests.ask(BEN, GetPlan())
        assert caught.value.retry_after_s == 2.0
        assert (await requests.ask(BEN, GetFile("x")))[0] == FileReply("x", found=True)
    await ben.close()


async def test_no_answer_is_a_deadline_and_spoils_nothing(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    await serve_requests(ben, member_of("s"), _answer)
    async with Requests(ann, member_of("s")) as requests:
        with pytest.raises(DeadlineExceeded):
            await requests.ask(BEN, GetFile("slow"), timeout_s=0.02)
        assert (await requests.ask(BEN, GetFile("x")))[0] == FileReply("x", found=True)
    await ben.close()


async def test_a_peer_that_restarted_is_asked_on_a_new_channel(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    await serve_requests(ben, member_of("s"), _answer)
    async with Requests(ann, member_of("s")) as requests:
        await requests.ask(BEN, GetFile("x"))
        await ben.close()
        with pytest.raises(PeerUnreachable):
            await requests.ask(BEN, GetFile("x"))
        ben = network.join(BEN)
        await serve_requests(ben, member_of("s"), _answer)
        assert (await requests.ask(BEN, GetFile("y")))[0] == FileReply("y", found=True)
    await ben.close()


async def test_unknown_peers_and_strangers_fail_clearly(network: MemoryNetwork) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    await serve_requests(ben, member_of("other"), _answer)
    async with Requests(ann, member_of("s")) as requests:
        with pytest.raises(PeerUnreachable):
            await requests.ask(EVE, GetPlan())
        with pytest.raises(HandshakeRefused):
            await requests.ask(BEN, GetPlan())
    await ben.close()


async def test_channels_with_peers_that_are_not_asked_any_more_are_closed(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, ben = network.join(ANN), network.join(BEN)
    await serve_requests(ben, member_of("s"), _answer)
    async with Requests(ann, member_of("s")) as requests:
        await requests.ask(BEN, GetFile("x"))
        await requests.tidy()
        assert len(network._pairs) == 1
        monkeypatch.setattr("helix_p2p.net.requests.IDLE_S", -1.0)
        await requests.tidy()
        assert len(network._pairs) == 0
    await ben.close()
