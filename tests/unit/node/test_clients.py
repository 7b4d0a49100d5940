"""Clients' streams: what is too much is refused, and nobody holds up the others."""

import asyncio
import contextlib

import pytest

from helix_p2p.errors import HelixError, PeerLost
from helix_p2p.membership.messages import Heartbeat
from helix_p2p.net.channel import open_channel
from helix_p2p.net.memory import MemoryNetwork
from helix_p2p.net.protocols import CLIENT_PROTOCOL
from helix_p2p.node.clients import STREAMS_PER_CLIENT, ClientService
from helix_p2p.session.messages import Cancel, Generate
from helix_p2p.types import SessionId
from tests.unit.net.members import ANN, BEN, member_of

ASKED = Generate(SessionId(b"1" * 16), (1, 2), 3)


class Serving:
    def __init__(self):
        self.clients, self.heard = set(), []
        self.streams, self.owed = {}, True
        self.changed = asyncio.Event()

    def add_client(self, key, stream):
        self.clients.add(key)
        self.streams[key] = stream

    def owes(self, key):
        return self.owed and bool(self.heard)

    def remove_client(self, key):
        self.clients.discard(key)
        self.changed.set()

    def on_client_message(self, key, identity, message):
        self.heard.append(message)
        self.changed.set()

    async def until(self, condition):
        async with asyncio.timeout(5):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def service():
    network, serving = MemoryNetwork(), Serving()
    here, there = network.join(ANN), network.join(BEN)
    clients = ClientService(serving, member_of("s"))
    await clients.start(here)

    async def dial():
        return await open_channel(there, ANN, CLIENT_PROTOCOL, member_of("s"))

    yield dial, serving, clients, here
    await there.close()
    await here.close()


async def test_client_that_sends_a_payload_is_cut_off_before_it_is_read(service):
    dial, serving, _, _ = service
    channel = await dial()
    await channel.send(ASKED)
    await serving.until(lambda: serving.heard == [ASKED])
    with contextlib.suppress(PeerLost):
        await channel.send(Cancel(ASKED.session), bytes(1_000_000))
    await serving.until(lambda: not serving.clients)
    assert serving.heard == [ASKED]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("helix_p2p.node.clients.HEARTBEAT_S", 0.02)
    monkeypatch.setattr("helix_p2p.node.clients.SILENCE_S", 0.1)


async def test_client_that_vanished_without_a_word_is_cut_off_while_it_is_owed_an_answer(
    service, quick
):
    dial, serving, _, _ = service
    channel = await dial()
    await asyncio.sleep(0.2)
    assert serving.clients, "nothing is owed yet, so nothing has to be said"
    await channel.send(ASKED)
    await serving.until(lambda: not serving.clients)
    await channel.close()


async def test_client_that_shows_life_is_kept_and_sees_life(service, quick):
    dial, serving, _, _ = service
    channel = await dial()
    await channel.send(ASKED)
    for _ in range(10):
        await channel.send(Heartbeat())
        message, _payload = await channel.receive(timeout_s=5.0)
        assert message == Heartbeat()
    assert serving.clients
    serving.owed = False
    await asyncio.sleep(0.2)
    assert serving.clients, "an idle stream may be silent"
    await channel.close()


async def test_streams_of_one_client_are_counted_while_they_still_shake_hands(service):
    dial, serving, clients, here = service
    tried = await asyncio.gather(
        *(dial() for _ in range(2 * STREAMS_PER_CLIENT)), return_exceptions=True
    )
    refused = [error for error in tried if isinstance(error, HelixError)]
    assert len(refused) == STREAMS_PER_CLIENT
    assert len(serving.clients) == STREAMS_PER_CLIENT
    for channel in tried:
        if not isinstance(channel, BaseException):
            await channel.close()
    await serving.until(lambda: not serving.clients)
    await here.close()
    assert clients.clients == 0
