"""Clients' streams: what is too much is refused, and nobody holds up the others."""

import asyncio
import contextlib

import pytest

from helix_p2p.errors import HelixError, PeerLost
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
        self.changed = asyncio.Event()

    def add_client(self, key, _stream):
        self.clients.add(key)

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
