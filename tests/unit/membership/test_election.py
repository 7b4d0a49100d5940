"""The lease: who holds it, when it lapses, who steps in and when."""

from random import Random

import pytest

from helix_p2p import codec
from helix_p2p.errors import DecodeError, SignatureError
from helix_p2p.identity import Signed
from helix_p2p.membership.election import LEASE_KIND, Election, Step, Surroundings, rank
from helix_p2p.membership.messages import Lease
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.types import PeerId

from .makers import EPOCH, SWARM, UNIX_S, identity, peer, plan

T = MembershipTiming()
ALL = [peer(n) for n in range(6)]


def around(
    me: int,
    *,
    others: list[PeerId] | None = None,
    heard_s: float = 1e9,
    changed_s: float = 0.0,
    able: bool = True,
) -> Surroundings:
    candidates = [p for p in (ALL if others is None else others) if p != peer(me)]
    return Surroundings(lambda: candidates, len(candidates), heard_s, changed_s, able)


def make(me: int) -> Election:
    return Election(peer(me), T, Random(me), 0.0)


def beat(signer: int, number: int, plan_hash: bytes = b"", epoch: int = 0) -> Signed:
    body = codec.encode(Lease(epoch, plan_hash, number))
    return identity(signer).sign(LEASE_KIND, SWARM, body)


def hears(election: Election, record: Signed, now_s: float, *, direct: bool = True) -> bool:
    return election.on_beat(record, SWARM, lambda: ALL, now_s, direct=direct)


def first_step_s(election: Election, me: int, until_s: float, **kw: object) -> float | None:
    """When this peer steps in, if it hears nothing more."""
    now_s = 0.0
    while now_s < until_s:
        if election.tick(around(me, **kw), now_s) is Step.STEP_IN:  # type: ignore[arg-type]
            return now_s
        now_s += 0.25
    return None


PLAN = plan(0)
RANKED = [ALL.index(p) for p in rank([p for p in ALL if p != peer(0)], PLAN.hash)]


@pytest.mark.parametrize("place", range(5))
def test_candidate_steps_in_after_lease_and_its_ranks_steps(place: int) -> None:
    me = RANKED[place]
    election = make(me)
    election.on_plan(PLAN, 0.0)
    stepped_s = first_step_s(election, me, 60.0)
    due_s = T.lease_s + place * T.rank_step_s
    assert stepped_s is not None
    assert due_s <= stepped_s <= due_s + T.jitter_s + 0.25


def test_beats_of_the_planner_keep_the_lease() -> None:
    me = RANKED[0]
    election = make(me)
    election.on_plan(PLAN, 0.0)
    for number in range(40):
        now_s = number * T.beat_s
        assert hears(election, beat(0, number, PLAN.hash, EPOCH), now_s)
        assert election.tick(around(me), now_s + T.beat_s - 0.1) is None
        assert election.holder == peer(0)


def test_repeated_beat_renews_nothing() -> None:
    me = RANKED[0]
    election = make(me)
    election.on_plan(PLAN, 0.0)
    old = beat(0, 7, PLAN.hash, EPOCH)
    assert hears(election, old, 1.0)
    for s in range(2, 20):
        assert not hears(election, old, float(s))
    assert not hears(election, beat(0, 6, PLAN.hash, EPOCH), 20.0)
    assert election.lapsed(1.0 + T.lease_s + 0.1)


def test_beat_for_another_plan_renews_nothing() -> None:
    election = make(RANKED[0])
    election.on_plan(PLAN, 0.0)
    assert not hears(election, beat(0, 7, b"another", EPOCH), 1.0)


def test_forged_beats_are_typed_errors_and_change_nothing() -> None:
    election = make(RANKED[0])
    election.on_plan(PLAN, 0.0)
    real = beat(0, 7, PLAN.hash, EPOCH)
    bent = Signed(real.kind, real.swarm, real.body, real.public_key, bytes(64))
    with pytest.raises(SignatureError):
        hears(election, bent, 1.0)
    with pytest.raises(DecodeError):
        hears(election, identity(0).sign(LEASE_KIND, SWARM, b"\xc1"), 1.0)
    assert election.lapsed(T.lease_s + 0.1)


def test_known_loss_of_the_planner_ends_the_lease_early() -> None:
    me = RANKED[0]
    election = make(me)
    election.on_plan(PLAN, 0.0)
    election.on_gone(peer(0), 0.0)
    stepped_s = first_step_s(election, me, 60.0)
    assert stepped_s is not None
    assert T.planner_lost_s <= stepped_s <= T.planner_lost_s + T.jitter_s + 0.25


def test_delayed_beat_passed_on_does_not_revive_a_lost_planner() -> None:
    election = make(RANKED[0])
    election.on_plan(PLAN, 0.0)
    election.on_gone(peer(0), 1.0)
    assert not hears(election, beat(0, 9, PLAN.hash, EPOCH), 2.0, direct=False)
    assert election.lapsed(2.0)
    assert hears(election, beat(0, 10, PLAN.hash, EPOCH), 2.5, direct=True)
    assert not election.lapsed(2.5)


def test_first_to_step_in_makes_the_others_wait_again() -> None:
    second = RANKED[1]
    election = make(second)
    election.on_plan(PLAN, 0.0)
    claim_s = T.lease_s + 1.0
    assert hears(election, beat(RANKED[0], 1, PLAN.hash, EPOCH), claim_s)
    stepped_s = first_step_s(election, second, 60.0)
    assert stepped_s is not None
    assert stepped_s >= claim_s + T.lease_s


def test_claim_does_not_take_a_lease_that_holds() -> None:
    election = make(RANKED[2])
    election.on_plan(PLAN, 0.0)
    assert not hears(election, beat(RANKED[0], 1, PLAN.hash, EPOCH), 5.0)
    assert election.holder == peer(0)


def test_of_two_that_stepped_in_the_better_ranked_is_heeded() -> None:
    better, worse = RANKED[0], RANKED[1]
    election = make(worse)
    election.on_plan(PLAN, 0.0)
    assert first_step_s(election, worse, 60.0) is not None
    assert election.holder == peer(worse)
    assert hears(election, beat(better, 1, PLAN.hash, EPOCH), 40.0)
    assert election.holder == peer(better)

    election = make(better)
    election.on_plan(PLAN, 0.0)
    assert first_step_s(election, better, 60.0) is not None
    assert not hears(election, beat(worse, 1, PLAN.hash, EPOCH), 40.0)
    assert election.is_planner


def test_candidate_that_claims_and_never_plans_does_not_block_the_swarm() -> None:
    me, idle = RANKED[1], RANKED[0]
    election = make(me)
    election.on_plan(PLAN, 0.0)
    now_s = T.lease_s + 1.0
    stepped_s = None
    for number in range(400):
        hears(election, beat(idle, number, PLAN.hash, EPOCH), now_s)
        if election.tick(around(me), now_s) is Step.STEP_IN:
            stepped_s = now_s
            break
        now_s += 1.0
    assert stepped_s is not None
    assert stepped_s < 6 * T.lease_s


def test_stranger_cannot_claim() -> None:
    election = make(RANKED[0])
    election.on_plan(PLAN, 0.0)
    assert not hears(election, beat(77, 1, PLAN.hash, EPOCH), T.lease_s + 1)


def test_first_plan_needs_no_lease_to_lapse() -> None:
    order = [ALL.index(p) for p in rank(ALL, b"")]
    for place, me in enumerate(order[:3]):
        stepped_s = first_step_s(make(me), me, 60.0, changed_s=2.0)
        due_s = 2.0 + T.settle_s + place * T.first_rank_step_s
        assert stepped_s == pytest.approx(due_s, abs=0.26)


def test_swarm_that_never_settles_gets_its_first_plan_all_the_same() -> None:
    me = ALL.index(rank(ALL, b"")[0])
    election = make(me)
    now_s = 0.0
    while election.tick(around(me, changed_s=now_s), now_s) is not Step.STEP_IN:
        now_s += 0.25
        assert now_s < 60
    assert now_s == pytest.approx(T.settle_most_s, abs=0.3)


def test_who_may_not_plan_never_steps_in_and_steps_down() -> None:
    me = ALL.index(rank(ALL, b"")[0])
    assert first_step_s(make(me), me, 200.0, able=False) is None
    election = make(me)
    first_step_s(election, me, 60.0)
    assert election.tick(around(me, able=False), 10.0) is Step.STEP_DOWN
    assert election.holder is None


def test_isolated_planner_steps_down_and_a_lone_peer_does_not() -> None:
    me = ALL.index(rank(ALL, b"")[0])
    election = make(me)
    first_step_s(election, me, 60.0)
    assert election.tick(around(me, heard_s=5.0), 5.0 + T.isolation_s - 1) is not Step.STEP_DOWN
    assert election.tick(around(me, heard_s=5.0), 5.0 + T.isolation_s + 1) is Step.STEP_DOWN
    alone = make(me)
    assert first_step_s(alone, me, 60.0, others=[]) is not None
    assert alone.tick(around(me, others=[], heard_s=0.0), 100.0) is Step.BEAT


def test_planner_beats_every_period_with_rising_numbers_over_a_restart() -> None:
    election = make(0)
    election.on_plan(PLAN, 0.0)
    numbers: list[int] = []
    now_s = 0.0
    while now_s < 50:
        if election.tick(around(0), now_s) is Step.BEAT:
            numbers.append(election.beat(UNIX_S + now_s, now_s).number)
        now_s += 0.25
    assert len(numbers) in (10, 11)
    assert numbers == sorted(set(numbers))
    assert make(0).beat(UNIX_S + 60, 0.0).number > numbers[-1]


def test_out_of_turn_candidate_without_a_possible_plan_lets_the_first_wait() -> None:
    order = [ALL.index(p) for p in rank(ALL, b"")]
    first, second = order[0], order[1]
    election = make(second)
    first_step_s(election, second, 60.0)
    assert election.on_unsolvable(around(second).candidates(), 10.0)
    assert not election.is_planner
    election = make(first)
    first_step_s(election, first, 60.0)
    assert not election.on_unsolvable(around(first).candidates(), 10.0)
    assert election.is_planner


def test_rank_cannot_be_chosen_and_changes_with_the_plan() -> None:
    orders = {tuple(rank(ALL, plan(0, EPOCH + n).hash)) for n in range(8)}
    assert len(orders) > 3
