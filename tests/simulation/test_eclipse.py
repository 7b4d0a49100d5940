"""A fifth of the machines is hostile and speaks with hundreds of made-up peers: who joins finds
the swarm all the same, and its plan counts on the honest.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from helix_p2p.cluster.announcement import PeerState
from helix_p2p.identity import Signed
from helix_p2p.membership import member as member_module
from helix_p2p.membership import messages as m
from helix_p2p.membership.crowd import LEAST
from helix_p2p.membership.own import OwnState
from tests.simulation.membership_lab import (
    LAYER_BYTES,
    SPEED,
    START_UNIX_S,
    SWARM,
    Lab,
    LabPeer,
    identity,
)

HONEST, HOSTILE, MADE_UP_EACH = 20, 5, 40
R = identity(999).peer_id


def address_of(p: LabPeer) -> str:
    """The hostile machines stand in one range, all others each in its own."""
    return "/ip4/8.8.8.8/tcp/1" if p.number >= HONEST else f"/ip4/9.9.{p.number}.1/tcp/1"


@dataclass(frozen=True)
class Flood:
    """How the made-up peers come.

    Attributes:
        address: Where each says it is.
        speaks: Whether each speaks for itself, too, or is only told of.
        taken: How many of them the joiner may know in the end.
    """

    address: Callable[[int], str]
    speaks: bool
    taken: int


FLOODS = {
    "one range": Flood(lambda _: "/ip4/8.8.8.8/tcp/1", True, LEAST),
    "at home": Flood(lambda number: f"/ip4/192.168.7.{number % 250}/tcp/1", True, LEAST),
    "no address": Flood(lambda _: "/dns4/example.org/tcp/1", True, LEAST),
    "through one relay": Flood(lambda _: f"/ip4/8.8.8.8/tcp/1/p2p/{R}/p2p-circuit", True, LEAST),
    "everywhere, told of": Flood(lambda number: f"/ip4/11.{number}.1.1/tcp/1", False, LEAST),
}


def made_up(lab: Lab, flood: Flood) -> list[Signed]:
    """Announcements of peers that do not exist."""
    template = next(iter(lab.members())).announcements()
    said = next(word for word in template.values() if word.speed is not None)
    return [
        replace(
            said,
            addresses=(flood.address(number),),
            memory_bytes=10 * LAYER_BYTES,
            sequence=int(lab.t * 10),
            issued_unix_s=START_UNIX_S + lab.t,
        ).signed(identity(1000 + number), SWARM)
        for number in range(HOSTILE * MADE_UP_EACH)
    ]


@pytest.mark.parametrize("kind", FLOODS)
def test_joiner_among_a_fifth_of_hostile_machines_finds_the_swarm(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_module, "OPEN_BELIEVES_FROM", 8)  # as among more than 64
    flood = FLOODS[kind]
    lab = Lab(6, HONEST + HOSTILE, ping_everyone_up_to=64)
    lab.start_all()
    for p in lab.peers:
        assert p.member is not None
        lab.act(p, p.member.set_own(own_of(p), p.now(lab.t)))
    joiner, hostile = lab.peers[0], lab.peers[HONEST:]
    lab.crash(joiner)
    lab.run(30.0)
    member = lab.start(joiner)
    lab.act(joiner, member.set_own(own_of(joiner), joiner.now(lab.t)))

    def pour() -> None:
        """Each made-up peer is vouched for by its makers, and may speak for itself."""
        records = made_up(lab, flood)
        for index, record in enumerate(records):
            evil = hostile[index % HOSTILE]
            lab.send(evil, joiner.peer, m.MembersReply((record,)))
            if flood.speaks:
                ping = m.Ping(0, b"", record, 1, START_UNIX_S + lab.t)
                lab.act(joiner, member.on_message(record.signer, ping, joiner.now(lab.t)))
        if lab.t < 90.0:
            lab.at(lab.t + 2.0, pour)

    # Of three it asks for the way in, one is hostile.
    for known in (lab.peers[1], lab.peers[2], hostile[0]):
        lab.send(joiner, known.peer, m.GetMembers())
    lab.at(lab.t + 0.1, pour)
    lab.run(50.0)
    known_peers = set(member.announcements())
    assert {p.peer for p in lab.peers[:HONEST]} <= known_peers
    assert len(known_peers - lab.by_id.keys()) <= flood.taken
    assert member.plan is not None
    placed = {a.peer for a in member.plan.plan.placement.assignments}
    assert placed & {p.peer for p in lab.peers[:HONEST]}
    if not flood.speaks:
        lab.run(120.0)
        assert set(member.announcements()) <= lab.by_id.keys(), "nobody of them ever answered"


def own_of(p: LabPeer) -> OwnState:
    """What a real machine says of itself."""
    return OwnState(PeerState.STANDBY, p.layers * LAYER_BYTES, SPEED, addresses=(address_of(p),))
