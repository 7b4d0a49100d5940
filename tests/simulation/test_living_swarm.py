"""Membership, planning, loading and serving of a whole swarm, under churn, in virtual time."""

import pytest

from helix_p2p.errors import RecordRejected
from helix_p2p.membership.cells import cell_id, cell_of
from helix_p2p.membership.records import member_key
from helix_p2p.sim.directory import Directory
from helix_p2p.sim.helix.replay import HelixRun
from helix_p2p.sim.living import START_UNIX_S, SWARM, LivingSwarm
from helix_p2p.sim.native.workload import Workload
from helix_p2p.sim.volunteers import volunteers


def swarm_of(peers: int, seed: int, cells: int = 1) -> LivingSwarm:
    hint = f"pytest tests/simulation/test_living_swarm.py -k seed-{seed}"
    return volunteers(peers, seed, replay_hint=hint, cells=cells)


def asked(swarm: LivingSwarm, clients: int, seconds: float) -> Workload:
    """Clients that ask from now on, for so long."""
    work = Workload(swarm, HelixRun(feed=clients, seed=0, warm_up_s=0.0, duration_s=seconds))
    work.start()
    return work


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(0, marks=pytest.mark.slow, id="seed-0"),
        pytest.param(1, marks=pytest.mark.slow, id="seed-1"),
        pytest.param(2, id="seed-2"),
    ],
)
def test_a_swarm_plans_serves_and_outlives_its_peers(seed: int) -> None:
    swarm = swarm_of(10, seed)
    swarm.time.run(150.0)
    assert swarm.one_plan()
    assert len(swarm.planners()) == 1
    work = Workload(swarm, HelixRun(feed=4, seed=seed, warm_up_s=0.0, duration_s=120.0))
    work.start()
    crashes = swarm.churn(0.4, 600.0, swarm.time.now_s + 100.0, 30.0)
    victim = swarm.planners()[0]
    swarm.time.at(swarm.time.now_s + 20.0, swarm.crash, victim)
    swarm.time.at(swarm.time.now_s + 60.0, swarm.restart, victim)
    swarm.time.run(swarm.time.now_s + 600.0)
    assert work.running == 0
    assert work.outcome.finished >= 0.99 * (work.outcome.finished + work.outcome.failed)
    assert work.outcome.finished > 8, f"{crashes} crashes, {work.outcome}"
    assert swarm.one_plan()
    assert len(swarm.planners()) == 1
    assert swarm.member_bytes > 0
    for peer in swarm.peers.values():
        assert peer.ledger.used_token_layers == 0, f"{peer.me} leaks KV"


def test_a_whole_swarm_replays_exactly() -> None:
    hashes = []
    for _ in range(2):
        swarm = swarm_of(6, 5)
        swarm.time.run(90.0)
        hashes.append((swarm.time.trace_hash(), swarm.time.events, swarm.member_bytes))
    assert hashes[0] == hashes[1]


def test_each_cell_has_its_members_its_planner_and_its_plan() -> None:
    swarm = swarm_of(30, 4, cells=3)
    swarm.time.run(100.0)
    assert swarm.one_plan()
    planners = swarm.planners()
    assert {swarm.minds[planner].cell for planner in planners} == set(swarm.parts)
    assert len(planners) == 3
    for cell in swarm.parts:
        assert cell.placement is not None
        assert {a.peer for a in cell.placement.assignments} <= set(cell.peers)
        for peer in cell.peers:
            member = swarm.minds[peer].member
            assert member is not None
            assert set(member.announcements()) == set(cell.peers)


def test_clients_spread_over_the_cells_and_are_answered() -> None:
    swarm = swarm_of(30, 4, cells=3)
    swarm.time.run(150.0)
    work = asked(swarm, clients=6, seconds=60.0)
    swarm.time.run(400.0)
    assert work.running == 0
    assert work.outcome.finished >= 6
    assert work.outcome.failed == work.outcome.refused == 0
    for cell in swarm.parts:
        assert sum(swarm.peers[peer].steps for peer in cell.peers) > 0


def test_a_lost_cells_clients_are_answered_by_others() -> None:
    swarm = swarm_of(20, 4, cells=2)
    swarm.time.run(400.0)
    work = asked(swarm, clients=6, seconds=60.0)
    swarm.time.run(410.0)
    lost, left = swarm.parts
    assert any(not swarm.peers[peer].entry.idle for peer in lost.peers)
    for peer in lost.peers:
        swarm.crash(peer)
    swarm.time.run(700.0)
    assert work.running == 0
    assert work.outcome.restarts > 0
    assert work.outcome.finished >= 6
    assert work.outcome.failed == work.outcome.refused == 0
    assert swarm.one_plan()
    assert [swarm.minds[planner].cell for planner in swarm.planners()] == [left]


def test_records_of_one_cell_are_refused_under_anothers_keys() -> None:
    swarm = swarm_of(20, 4, cells=2)
    swarm.time.run(30.0)
    home, other = (cell_id(SWARM, number) for number in range(2))
    directory = Directory(SWARM, START_UNIX_S)
    peer = swarm.parts[0].peers[0]
    member = swarm.minds[peer].member
    assert member is not None
    directory.store(member_key(home, peer), peer, member.record, 20.0, 30.0)
    with pytest.raises(RecordRejected, match="another swarm"):
        directory.store(member_key(other, peer), peer, member.record, 20.0, 30.0)
    assert directory.look_up([member_key(home, peer)], 31.0) == [member.record]
    assert directory.look_up([member_key(other, peer)], 31.0) == []


def test_a_swarm_of_cells_replays_exactly() -> None:
    hashes = []
    for _ in range(2):
        swarm = swarm_of(12, 5, cells=2)
        swarm.time.run(60.0)
        work = asked(swarm, clients=2, seconds=10.0)
        swarm.time.run(120.0)
        hashes.append((swarm.time.trace_hash(), swarm.time.events, work.outcome))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_swarm_is_parted_anew_while_it_serves_and_no_request_fails(before: int, after: int) -> None:
    swarm = swarm_of(40, 4, cells=before)
    swarm.time.run(200.0)
    work = asked(swarm, clients=6, seconds=200.0)
    swarm.time.run(230.0)
    moving = swarm.part(after, within_s=60.0)
    assert 10 <= moving <= 30
    swarm.time.run(500.0)
    assert work.running == 0
    assert work.outcome.finished >= 50
    assert work.outcome.failed == work.outcome.refused == 0
    assert swarm.one_plan()
    assert len(swarm.planners()) == after
    for number, cell in enumerate(swarm.parts):
        assert cell.peers == sorted(p for p in swarm.minds if cell_of(p, SWARM, after) == number)


def test_operator_who_thinks_better_of_it_ends_with_the_last_word() -> None:
    swarm = swarm_of(20, 4)
    swarm.time.run(100.0)
    swarm.part(2, within_s=30.0)
    swarm.time.run(115.0)
    swarm.part(1, within_s=30.0)
    swarm.time.run(300.0)
    assert [len(cell.peers) for cell in swarm.parts] == [20, 0]
    assert swarm.one_plan()
    assert len(swarm.planners()) == 1


def test_peers_that_crash_while_they_move_come_back_in_their_new_cell() -> None:
    swarm = swarm_of(30, 4)
    swarm.time.run(100.0)
    swarm.part(3, within_s=30.0)
    crashes = swarm.churn(share=1.0, every_s=60.0, until_s=150.0, away_s=10.0)
    assert crashes > 10
    swarm.time.run(300.0)
    assert swarm.one_plan()
    assert len(swarm.planners()) == 3
    for number, cell in enumerate(swarm.parts):
        assert all(cell_of(peer, SWARM, 3) == number for peer in cell.peers)
        assert all(swarm.minds[peer].member is not None for peer in cell.peers)
