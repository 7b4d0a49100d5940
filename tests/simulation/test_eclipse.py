"""A fifth of the machines is hostile and speaks with hundreds of made-up peers: who joins finds
the swarm all the same, and its plan counts on the honest.
"""

from dataclasses import replace

from helix_p2p.cluster.announcement import PeerState
from helix_p2p.identity import Signed
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


def address_of(p: LabPeer) -> str:
    """The hostile machines stand in one range, all others each in its own."""
    return "/ip4/8.8.8.8/tcp/1" if p.number >= HONEST else f"/ip4/9.9.{p.number}.1/tcp/1"


def made_up(lab: Lab) -> list[Signed]:
    """Announcements of peers that do not exist, with the hostile machines' addresses."""
    template = next(iter(lab.members())).announcements()
    said = next(word for word in template.values() if word.speed is not None)
    return [
        replace(
            said,
            addresses=("/ip4/8.8.8.8/tcp/1",),
            memory_bytes=10 * LAYER_BYTES,
            sequence=int(lab.t * 10),
            issued_unix_s=START_UNIX_S + lab.t,
        ).signed(identity(1000 + number), SWARM)
        for number in range(HOSTILE * MADE_UP_EACH)
    ]


def test_joiner_among_a_fifth_of_hostile_machines_finds_the_swarm() -> None:
    lab = Lab(6, HONEST + HOSTILE, ping_everyone_up_to=64)
    lab.start_all()
    for p in lab.peers:
        assert p.member is not None
        own = OwnState(PeerState.STANDBY, p.layers * LAYER_BYTES, SPEED, addresses=(address_of(p),))
        lab.act(p, p.member.set_own(own, p.now(lab.t)))
    joiner, hostile = lab.peers[0], lab.peers[HONEST:]
    lab.crash(joiner)
    lab.run(30.0)
    member = lab.start(joiner)

    def flood() -> None:
        """Each made-up peer speaks for itself to the joiner, and is vouched for by its makers."""
        records = made_up(lab)
        for index, record in enumerate(records):
            evil = hostile[index % HOSTILE]
            lab.send(evil, joiner.peer, m.MembersReply((record,)))
            ping = m.Ping(0, b"", record, 1, START_UNIX_S + lab.t)
            lab.act(joiner, member.on_message(record.signer, ping, joiner.now(lab.t)))
        if lab.t < 90.0:
            lab.at(lab.t + 2.0, flood)

    # Of three it asks for the way in, one is hostile.
    for known in (lab.peers[1], lab.peers[2], hostile[0]):
        lab.send(joiner, known.peer, m.GetMembers())
    lab.at(lab.t + 0.1, flood)
    lab.run(50.0)
    known_peers = set(member.announcements())
    assert {p.peer for p in lab.peers[:HONEST]} <= known_peers
    assert len(known_peers - lab.by_id.keys()) <= LEAST
    assert member.plan is not None
    placed = {a.peer for a in member.plan.plan.placement.assignments}
    assert placed & {p.peer for p in lab.peers[:HONEST]}
