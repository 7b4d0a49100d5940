"""The root's words come from the ways in at the start, and from somebody else every minute."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from helix_p2p.errors import ProtocolError
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cell_count import CellCount, write_cells
from helix_p2p.membership.credentials import swarm_id_of
from helix_p2p.membership.handshake import Admission
from helix_p2p.membership.messages import GetRootWords, PlanReply, RootWords
from helix_p2p.net.channel import Channel, Membership
from helix_p2p.net.memory import MemoryNetwork
from helix_p2p.net.requests import serve_requests
from helix_p2p.node import root_words
from helix_p2p.node.cells import CellsKnown
from helix_p2p.node.joining import Belonging, found_swarm
from helix_p2p.node.root_words import ask_at_start, keep_asking
from helix_p2p.node.state import StateDir
from helix_p2p.types import PeerId
from helix_p2p.wire.registry import Message

ROOT, ME = Identity(bytes([1] * 32)), Identity(bytes([2] * 32))
SWARM = swarm_id_of(ROOT.public_key)

Reply = Callable[[GetRootWords], Awaitable[Message]]


def said(serial: int, cells: int) -> Signed:
    return write_cells(ROOT, CellCount(serial, cells))


def ours(identity: Identity) -> Membership:
    admission: Admission = found_swarm(ROOT, identity, "").admission()
    return Membership.of(lambda: admission)


async def way_in(network: MemoryNetwork, number: int, reply: Reply) -> tuple[PeerId, Any]:
    identity = Identity(bytes([number] * 32))
    transport = network.join(identity.peer_id)

    async def answer(
        _channel: Channel, message: Message, _data: bytearray
    ) -> tuple[Message, bytes]:
        assert isinstance(message, GetRootWords)
        return await reply(message), b""

    await serve_requests(transport, ours(identity), answer)
    return identity.peer_id, tuple(transport.addresses)


async def heard(tmp_path: Path, *replies: Reply, held: Signed | None = None) -> CellsKnown:
    network = MemoryNetwork()
    ways_in = dict([await way_in(network, 10 + n, reply) for n, reply in enumerate(replies)])
    belonging = Belonging(SWARM, (), "", ROOT.public_key, b"")
    with StateDir(tmp_path / "state") as state:
        if held is not None:
            state.keep_cells(held)
        known = CellsKnown(belonging, state)
        await ask_at_start(network.join(ME.peer_id), ours(ME), ways_in, known)
    return known


async def three(_: GetRootWords) -> Message:
    return RootWords(said(7, 3))


async def nothing(_: GetRootWords) -> Message:
    return RootWords()


async def silence(_: GetRootWords) -> Message:
    await asyncio.sleep(60)
    raise AssertionError


async def nonsense(_: GetRootWords) -> Message:
    return PlanReply(None)


async def test_ways_in_say_how_many_cells_there_are(tmp_path: Path) -> None:
    assert (await heard(tmp_path, three)).count == 3


async def test_one_that_knows_nothing_or_answers_nonsense_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_words, "OTHERS_S", 20.0)
    assert (await heard(tmp_path, nothing, nonsense, three)).count == 3


async def test_silent_way_in_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_words, "FIRST_S", 20.0)
    monkeypatch.setattr(root_words, "OTHERS_S", 0.05)
    async with asyncio.timeout(10):
        assert (await heard(tmp_path / "a", silence, three)).count == 3
        monkeypatch.setattr(root_words, "FIRST_S", 0.05)
        assert (await heard(tmp_path / "b", silence)).count == 1
        assert (await heard(tmp_path / "c")).count == 1


async def refusal(_: GetRootWords) -> Message:
    raise ProtocolError("that is no question")


async def later(_: GetRootWords) -> Message:
    await asyncio.sleep(0.3)
    return RootWords(said(7, 3))


async def test_one_that_refuses_at_once_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_words, "FIRST_S", 20.0)
    monkeypatch.setattr(root_words, "OTHERS_S", 0.0)
    async with asyncio.timeout(10):
        assert (await heard(tmp_path, refusal, nonsense, later)).count == 3


async def test_old_word_of_a_way_in_does_not_replace_what_is_known(tmp_path: Path) -> None:
    assert (await heard(tmp_path, three, held=said(8, 5))).count == 5


async def asked_in(
    rounds: float, monkeypatch: pytest.MonkeyPatch, *, members: int, nodes: int
) -> Counter[str]:
    monkeypatch.setattr(root_words, "ASK_EVERY_S", 0.001)
    asked: Counter[str] = Counter()

    async def ask(peer: PeerId) -> None:
        asked[peer] += 1
        if asked.total() >= rounds:
            raise EndOfTest

    with pytest.raises(EndOfTest):
        await keep_asking(
            ask,
            ways_in=[PeerId("way in")],
            members=lambda: [PeerId(f"member {n}") for n in range(members)],
            nodes=lambda: nodes,
        )
    return asked


class EndOfTest(Exception):
    pass


async def test_in_a_large_swarm_nearly_all_ask_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = await asked_in(200, monkeypatch, members=400, nodes=10_000)
    assert asked["way in"] <= 5
    assert len(asked) > 100


async def test_in_a_small_swarm_and_alone_the_way_in_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (await asked_in(20, monkeypatch, members=3, nodes=4))["way in"] == 20
    assert (await asked_in(20, monkeypatch, members=0, nodes=10_000))["way in"] == 20
