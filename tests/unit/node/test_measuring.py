"""A peer measures the ways to a few others in each round, and each has its turn."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from helix_p2p.cluster.announcement import PeerState
from helix_p2p.errors import PeerUnreachable
from helix_p2p.membership.messages import ProbeReply
from helix_p2p.node.measuring import FIRST_TRIES, PEERS_PER_ROUND, WayMeter
from helix_p2p.node.presence import Presence
from helix_p2p.types import PeerId
from tests.unit.planning.swarms import make_announcements, make_model

SAID = {
    identity.peer_id: replace(said, state=PeerState.SERVING)
    for identity, said in make_announcements(make_model(), [10**9] * 14)
}
ME, *OTHERS = sorted(SAID)
SILENT = OTHERS[:PEERS_PER_ROUND]


class Others:
    """Peers of which some never answer."""

    def __init__(self, silent: list[PeerId]) -> None:
        self.silent = set(silent)
        self.asked: set[PeerId] = set()

    async def ask(
        self, peer: PeerId, message: Any, payload: bytes = b"", **_how: Any
    ) -> tuple[ProbeReply, bytearray]:
        self.asked.add(peer)
        if peer in self.silent:
            raise PeerUnreachable(f"{peer} did not answer")
        return ProbeReply(len(payload)), bytearray(message.size_bytes)


def meter(others: Others) -> WayMeter:
    member = SimpleNamespace(peer_id=ME, announcements=lambda: SAID)
    here = SimpleNamespace(member=member, requests=others, addresses_of=lambda _peer: ())
    return WayMeter(cast("Presence", here))


async def test_peers_that_never_answer_keep_nobody_from_their_turn() -> None:
    others = Others(SILENT)
    measuring = meter(others)
    for _ in range(3):
        ways = await measuring.round()
    assert {link.peer for link in ways.links} == set(OTHERS) - set(SILENT)


async def test_newcomer_that_never_answers_soon_waits_for_its_turn() -> None:
    others = Others(SILENT)
    measuring = meter(others)
    for _ in range(2 * FIRST_TRIES):
        await measuring.round(measuring.newcomers())
    assert measuring.newcomers() == []
    others.asked.clear()
    others.silent.clear()
    for _ in range(3):
        ways = await measuring.round()
    assert others.asked == set(OTHERS)
    assert {link.peer for link in ways.links} == set(OTHERS)
