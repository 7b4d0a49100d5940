"""What validation cannot see: a planner that leaves peers out, and a crowd of invented ones."""

from dataclasses import replace

from helix_p2p import codec
from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.identity import Identity
from helix_p2p.membership import effects as fx
from helix_p2p.membership import messages as m
from helix_p2p.types import SLOT_S
from tests.simulation.cabal import Cabal
from tests.simulation.membership_lab import MODEL, SPEED, START_UNIX_S, SWARM
from tests.simulation.storm import Storm, Weather


def settled(seed: int, peers: int, hostile: int) -> Storm:
    lab = Storm(seed, Weather(peers, hostile, 0.02))
    lab.start_all()
    assert lab.run_until(lambda: lab.one_plan() is not None, 60) is not None
    lab.run(20.0)
    return lab


def test_planner_that_leaves_peers_out_is_told_on_within_two_slots_however_often_it_plans() -> None:
    lab = settled(1, 12, 1)
    cabal = Cabal(lab)
    [(evil, member)] = cabal.members
    lab.lazy.add(evil.peer)
    chosen = {p.peer for p in lab.honest()[:6]}
    omitted = {p.peer for p in lab.honest()[6:]}
    began_s = lab.t
    while lab.t - began_s < 2 * SLOT_S + 12.0:
        plan = cabal._good(evil, member, chosen)
        assert plan is not None
        record = cabal._sign(evil, plan)
        for p in lab.honest():
            lab.send(evil, p.peer, m.PushPlan(record))
        lab.run(12.0)
    alarms = lab.told(fx.PlanOmits, began_s)
    assert {peer for _, alarm in alarms for peer in alarm.peers} == omitted
    assert {alarm.planner for _, alarm in alarms} == {evil.peer}
    first_s = min(t for p in lab.peers for t, e in p.events if isinstance(e, fx.PlanOmits))
    assert first_s - began_s <= 2 * SLOT_S + 6.0, "the first plan took a moment to be adopted"
    assert {p.number for p, _ in alarms} >= {p.number for p in lab.honest()}


def test_a_fifth_of_hostile_peers_with_invented_identities_eclipses_nobody() -> None:
    lab = settled(2, 20, 4)
    newcomer = lab.honest()[0]
    lab.crash(newcomer)
    lab.run(30.0)
    lab.start(newcomer)
    said = Announcement(
        1, 1, START_UNIX_S + lab.t, MODEL.manifest_hash, PeerState.STANDBY, 9_000, SPEED
    )
    ghosts = [Identity(codec.sha256(f"ghost {n}".encode())) for n in range(60)]
    records = tuple(replace(said, sequence=2).signed(ghost, SWARM) for ghost in ghosts)
    for step in range(20):
        for evil, _ in Cabal(lab).members:
            lab.at(
                lab.t + step,
                lambda evil=evil: lab.send(evil, newcomer.peer, m.MembersReply(records)),
            )
    agreed = lab.run_until(lambda: lab.one_plan(without=lab.hostile) is not None, 60.0)
    assert agreed is not None
    assert newcomer.member is not None
    assert not {ghost.peer_id for ghost in ghosts} & {e.peer for e in newcomer.member.view}
    planner = lab.planners()[0]
    lab.crash(planner)
    took_s = lab.run_until(lambda: bool(lab.planners()), 60.0)
    assert took_s is not None
    assert took_s <= 30.0, "candidates that do not exist hold nobody up"
