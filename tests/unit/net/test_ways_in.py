"""Dialling several ways into a swarm at once."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from helix_p2p.errors import PeerUnreachable
from helix_p2p.identity import Identity
from helix_p2p.net.daemon import Daemon
from helix_p2p.net.libp2p import Libp2pTransport

ADDRESSES = [f"/ip4/203.0.113.7/tcp/{port}/p2p/12D3KooW{port}" for port in (1, 2, 3)]


class Dialling:
    """A daemon that reaches nobody but these."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers

    async def connect(self, peer: str, addresses: Sequence[str], *, timeout_s: float) -> None:
        if peer not in self.answers:
            raise PeerUnreachable(f"{peer} did not answer")


def transport(*answers: str) -> Libp2pTransport:
    return Libp2pTransport(Identity(bytes(32)), cast("Daemon", Dialling(*answers)), cast("Any", 0))


async def test_first_that_answers_is_enough() -> None:
    made = transport("12D3KooW2")
    await made.reach(ADDRESSES)


async def test_nobody_answers_and_no_dial_is_remembered() -> None:
    made = transport()
    for _ in range(3):
        with pytest.raises(PeerUnreachable, match="3 tried"):
            await made.reach(ADDRESSES)
    await asyncio.sleep(0)
    assert not [kept for kept in vars(made).values() if isinstance(kept, set) and kept]
