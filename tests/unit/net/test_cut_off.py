"""A certificate that is revoked, or expires, ends the streams that its owner has open."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from helix_p2p.errors import HandshakeRefused, HelixError, PeerLost
from helix_p2p.identity import Identity
from helix_p2p.membership.credentials import (
    ALL_ROLES,
    CLOCK_LEEWAY_S,
    certify,
    grant,
    invite_id_of,
    swarm_id_of,
)
from helix_p2p.membership.handshake import Admission
from helix_p2p.membership.messages import FileReply, GetFile, Heartbeat, Probe
from helix_p2p.net import requests as asking
from helix_p2p.net.channel import Channel, Membership, open_channel
from helix_p2p.net.link import LinkOptions
from helix_p2p.net.links import LinkPool
from helix_p2p.net.memory import MemoryNetwork
from helix_p2p.net.protocols import CLIENT_PROTOCOL, CONTROL_PROTOCOL
from helix_p2p.net.requests import Requests, serve_requests
from helix_p2p.net.transport import Buffer
from helix_p2p.node import clients as guests
from helix_p2p.node.clients import ClientService
from helix_p2p.types import PeerId
from helix_p2p.wire.registry import Message

ROOT, INVITE, ANN, BEN = (Identity(bytes([n]) * 32) for n in (9, 8, 1, 2))
SWARM = swarm_id_of(ROOT.public_key)
NOW_S = 1_800_000_000.0
QUICK = LinkOptions(heartbeat_s=0.02, silence_s=5.0, dial_timeout_s=1.0)


@dataclass
class World:
    """What one member knows: the time and who is revoked; the other knows nothing."""

    unix_s: float = NOW_S
    revoked: set[str] = field(default_factory=set)

    def knowing(self, who: Identity) -> Membership:
        granted = grant(ROOT, INVITE, ALL_ROLES, NOW_S + 100)
        chain = certify(INVITE, granted, who.public_key)
        return Membership.of(
            lambda: Admission(SWARM, "m" * 64, ROOT.public_key, chain, frozenset(self.revoked)),
            unix_s=lambda: self.unix_s,
        )


def revoke_peer(world: World) -> None:
    world.revoked.add(BEN.peer_id)


def revoke_invite(world: World) -> None:
    world.revoked.add(invite_id_of(INVITE.public_key))


def expire(world: World) -> None:
    world.unix_s += 100 + CLOCK_LEEWAY_S


each_end = pytest.mark.parametrize(
    ("end", "words"), [(revoke_peer, "revoked"), (revoke_invite, "revoked"), (expire, "expired")]
)
End = Callable[[World], None]


@each_end
@pytest.mark.parametrize("opener", [ANN, BEN], ids=["its-link", "our-link"])
async def test_running_link_is_cut(
    network: MemoryNetwork, end: End, words: str, opener: Identity
) -> None:
    world, heard = World(), asyncio.Event()
    lost: asyncio.Queue[tuple[PeerId, HelixError]] = asyncio.Queue()
    ann, ben = network.join(ANN.peer_id), network.join(BEN.peer_id)

    def on_message(_peer: PeerId, _message: Message, _payload: bytearray) -> None:
        heard.set()

    ours = LinkPool(
        ann,
        world.knowing(ANN),
        on_message=on_message,
        on_lost=lambda peer, error: lost.put_nowait((peer, error)),
        options=QUICK,
    )
    theirs = LinkPool(
        ben,
        World().knowing(BEN),
        on_message=on_message,
        on_lost=lambda _peer, _error: None,
        options=QUICK,
    )
    async with ours, theirs, asyncio.timeout(5):
        pool, other = (ours, BEN) if opener is ANN else (theirs, ANN)
        pool.send(other.peer_id, Probe())
        await heard.wait()
        assert lost.empty()
        end(world)
        peer, error = await lost.get()
        assert peer == BEN.peer_id
        assert isinstance(error, HandshakeRefused)
        assert words in str(error)
        ours.send(BEN.peer_id, Probe())
        assert isinstance((await lost.get())[1], HandshakeRefused), "and not let in again"
    await ann.close()
    await ben.close()


@each_end
async def test_open_question_channel_is_cut_and_no_question_is_answered(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch, end: End, words: str
) -> None:
    async def answer(
        _channel: Channel, message: Message, _payload: bytearray
    ) -> tuple[Message, Buffer]:
        assert isinstance(message, GetFile)
        return FileReply(message.name, found=True), b"secret"

    monkeypatch.setattr(asking, "RECHECK_S", 0.05)
    world = World()
    ann, ben = network.join(ANN.peer_id), network.join(BEN.peer_id)
    await serve_requests(ann, world.knowing(ANN), answer)
    async with Requests(ben, World().knowing(BEN)) as requests:
        await requests.ask(ANN.peer_id, GetFile("a"))
        channel = await open_channel(ben, ANN.peer_id, CONTROL_PROTOCOL, World().knowing(BEN))
        end(world)
        with pytest.raises(HandshakeRefused, match=words):
            await requests.ask(ANN.peer_id, GetFile("b"))
    async with asyncio.timeout(5):
        reply, _ = await channel.receive()
        assert words in str(reply)
        with pytest.raises(PeerLost):
            await channel.receive()
    await ann.close()
    await ben.close()


class Serving:
    def __init__(self) -> None:
        self.came, self.went = asyncio.Event(), asyncio.Event()

    def add_client(self, _key: str, _stream: object) -> None:
        self.came.set()

    def remove_client(self, _key: str) -> None:
        self.went.set()

    def owes(self, _key: str) -> bool:
        return True


@each_end
async def test_client_stream_is_cut_and_told_why(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch, end: End, words: str
) -> None:
    monkeypatch.setattr(guests, "RECHECK_S", 0.05)
    world, serving = World(), Serving()
    ann, ben = network.join(ANN.peer_id), network.join(BEN.peer_id)
    await ClientService(serving, world.knowing(ANN)).start(ann)  # type: ignore[arg-type]
    channel = await open_channel(ben, ANN.peer_id, CLIENT_PROTOCOL, World().knowing(BEN))
    async with asyncio.timeout(5):
        await serving.came.wait()
        end(world)
        reply: Message = Heartbeat()
        while isinstance(reply, Heartbeat):  # how many come before depends on the machine
            reply, _ = await channel.receive()
        assert words in str(reply)
        await serving.went.wait()
    await ann.close()
    await ben.close()
