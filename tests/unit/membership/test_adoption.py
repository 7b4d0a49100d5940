"""Which plan holds: order, validity, the mark on disk, the proof of a lie."""

import pytest

from helix_p2p import codec
from helix_p2p.errors import DecodeError, PlanRejected, SignatureError
from helix_p2p.membership.adoption import (
    Adoption,
    Equivocation,
    HighWater,
    Offer,
    equivocation,
    highest_epoch_at,
    mark_of,
    next_epoch,
    slot_of,
)
from helix_p2p.membership.timing import MembershipTiming, Now
from helix_p2p.planning.plan import PLAN_KIND, SignedPlan
from helix_p2p.types import SLOT_S

from .makers import EPOCH, SWARM, UNIX_S, at, check_plan, identity, peer, plan

T = MembershipTiming()


def make(high_water: HighWater | None = None) -> Adoption:
    return Adoption(SWARM, check_plan, T, high_water, met=lambda _: True)


def adopt(adoption: Adoption, signed: SignedPlan, now: Now | None = None) -> bool:
    now = now or at(0)
    outcome, offered = adoption.offer(signed.record, now)
    if outcome is not Offer.PERSIST:
        return False
    return adoption.persisted(offered.hash, now.s) is not None


def test_higher_plan_is_adopted_and_lower_or_equal_is_not() -> None:
    adoption = make()
    low, high = plan(1, EPOCH), plan(2, EPOCH + 1)
    assert adopt(adoption, low)
    assert adopt(adoption, high)
    assert not adopt(adoption, low)
    assert not adopt(adoption, high)
    assert adoption.current == high


def test_plans_of_one_epoch_are_ordered_alike_by_everyone() -> None:
    plans = [plan(number, EPOCH) for number in range(1, 6)]
    forwards, backwards = make(), make()
    for signed in plans:
        adopt(forwards, signed)
    for signed in reversed(plans):
        adopt(backwards, signed)
    assert forwards.current == backwards.current == max(plans, key=lambda signed: signed.order)


def test_nothing_is_adopted_before_its_mark_is_on_disk() -> None:
    adoption = make()
    signed = plan(1)
    assert adoption.offer(signed.record, at(0))[0] is Offer.PERSIST
    assert adoption.current is None
    assert adoption.persisted(b"something else", 0.0) is None
    assert adoption.current is None
    assert adoption.persisted(signed.hash, 0.0) == signed
    assert adoption.high_water == mark_of(signed)


def test_full_disk_leaves_the_old_plan_and_a_later_try_works() -> None:
    adoption = make()
    old, new = plan(1, EPOCH), plan(1, EPOCH + 1)
    adopt(adoption, old)
    adoption.offer(new.record, at(1))
    adoption.persist_failed(new.hash)
    assert adoption.current == old
    assert adopt(adoption, new, at(2))


def test_higher_plan_overtakes_one_whose_mark_is_being_written() -> None:
    adoption = make()
    first, second = plan(1, EPOCH), plan(1, EPOCH + 1)
    adoption.offer(first.record, at(0))
    adoption.offer(second.record, at(0))
    assert adoption.persisted(first.hash, 0.0) is None
    assert adoption.persisted(second.hash, 0.0) == second


def test_restart_adopts_its_last_plan_again_but_nothing_below() -> None:
    before = make()
    low, high = plan(1, EPOCH), plan(1, EPOCH + 1)
    adopt(before, high)
    assert before.high_water is not None
    after = make(HighWater.decode(before.high_water.encode()))
    assert not adopt(after, low)
    assert adopt(after, high)


def test_damaged_mark_is_a_typed_error() -> None:
    with pytest.raises(DecodeError):
        HighWater.decode(b"\x00\x01")


def test_invalid_plan_is_refused_and_not_validated_again_for_a_while() -> None:
    validated: list[bytes] = []

    def validate(signed: SignedPlan, now_unix_s: float) -> None:
        validated.append(signed.hash)
        check_plan(signed, now_unix_s)

    adoption = Adoption(SWARM, validate, T, met=lambda _: True)
    evil = plan(1, solver="evil")
    for s in (0.0, 1.0, T.rejected_s + 1):
        with pytest.raises(PlanRejected):
            adoption.offer(evil.record, at(s))
    assert len(validated) == 2
    assert adoption.current is None


def test_epoch_from_the_future_is_refused() -> None:
    adoption = make()
    ahead = highest_epoch_at(UNIX_S)
    assert adopt(adoption, plan(1, ahead))
    with pytest.raises(PlanRejected, match="epoch"):
        adoption.offer(plan(1, ahead + 1).record, at(0))


def test_plan_that_came_too_early_is_taken_when_the_clock_allows_it() -> None:
    adoption = make()
    early = plan(1, highest_epoch_at(UNIX_S) + 1)
    with pytest.raises(PlanRejected, match="epoch"):
        adoption.offer(early.record, at(SLOT_S - 1))
    later = at(SLOT_S)
    assert adoption.wants(early.plan.epoch, early.hash, later)
    assert adoption.offer(early.record, later)[0] is Offer.PERSIST


def test_plan_in_another_planners_name_is_refused_and_frames_nobody() -> None:
    adoption = make()
    honest = plan(1)
    adopt(adoption, honest)
    other = plan(1, salt=1.0)
    forged = identity(2).sign(PLAN_KIND, SWARM, other.record.body)
    with pytest.raises(PlanRejected, match="another peer than its planner"):
        adoption.offer(forged, at(0))
    with pytest.raises(PlanRejected):
        equivocation(forged, identity(2).sign(PLAN_KIND, SWARM, honest.record.body), SWARM)


def test_bad_signature_does_not_spoil_a_good_copy() -> None:
    adoption = make()
    good = plan(1)
    forged = identity(2).sign("announcement", SWARM, good.record.body)
    with pytest.raises(SignatureError):
        adoption.offer(forged, at(0))
    assert adopt(adoption, good)


def test_garbage_is_a_typed_error() -> None:
    with pytest.raises(DecodeError):
        make().offer(identity(1).sign(PLAN_KIND, SWARM, b"\xc1"), at(0))


def test_two_plans_under_one_key_and_epoch_convict_their_signer() -> None:
    adoption = make()
    one, two = plan(1, salt=0.0), plan(1, salt=1.0)
    adopt(adoption, one)
    with pytest.raises(Equivocation) as caught:
        adoption.offer(two.record, at(0))
    proof = caught.value.proof
    assert equivocation(proof.first, proof.second, SWARM) == peer(1)
    assert adoption.current == one


def test_honest_plans_convict_nobody() -> None:
    one = plan(1, EPOCH)
    assert equivocation(one.record, one.record, SWARM) is None
    assert equivocation(one.record, plan(1, EPOCH + 1).record, SWARM) is None
    assert equivocation(one.record, plan(2, EPOCH).record, SWARM) is None


def test_previous_plan_is_accepted_for_its_grace_period() -> None:
    adoption = make()
    adopt(adoption, plan(1, EPOCH), at(0))
    adopt(adoption, plan(1, EPOCH + 1), at(100))
    assert adoption.accepts_epoch(EPOCH + 1, 101)
    assert adoption.accepts_epoch(EPOCH, 100 + T.grace_s - 1)
    assert not adoption.accepts_epoch(EPOCH, 100 + T.grace_s)
    assert not adoption.accepts_epoch(EPOCH + 2, 101)
    assert adoption.find(plan(1, EPOCH).hash, 101) is not None
    assert adoption.find(plan(1, EPOCH).hash, 100 + T.grace_s) is None
    assert adoption.find(b"", 101) == adoption.current


def test_mention_is_followed_only_when_it_may_be_higher() -> None:
    adoption = make()
    adopt(adoption, plan(1, EPOCH + 1))
    assert adoption.wants(EPOCH + 2, b"x", at(0))
    assert adoption.wants(EPOCH + 1, b"x", at(0))
    assert not adoption.wants(EPOCH, b"x", at(0))
    assert not adoption.wants(EPOCH + 1, plan(1, EPOCH + 1).hash, at(0))
    assert not adoption.wants(highest_epoch_at(UNIX_S) + 1, b"x", at(0))
    assert not adoption.wants(10**30, b"x", at(0))
    assert not adoption.wants(EPOCH + 2, b"", at(0))


def test_next_epoch_follows_the_slot_and_runs_out_rather_than_ahead() -> None:
    assert next_epoch(0, UNIX_S) == 64 * slot_of(UNIX_S)
    assert next_epoch(EPOCH + 5, UNIX_S) == EPOCH + 6
    limit = highest_epoch_at(UNIX_S)
    assert limit == 64 * (slot_of(UNIX_S) + 3) - 1
    assert next_epoch(limit - 1, UNIX_S) == limit
    assert next_epoch(limit, UNIX_S) is None
    assert next_epoch(limit, UNIX_S + 30) == limit + 1


def test_memory_of_plans_is_bounded() -> None:
    adoption = make()
    for number in range(600):
        signed = plan(1, EPOCH - 700 + number)
        adopt(adoption, signed)
    sizes = [len(v) for v in vars(adoption).values() if hasattr(v, "__len__")]
    assert max(sizes) <= 256


def test_who_signs_many_plans_does_not_hide_the_first_half_of_a_proof() -> None:
    adoption = make()
    adoption.offer(plan(1).record, at(0))
    for number in range(300):
        adoption.offer(plan(2, EPOCH - 300 + number).record, at(0))
    with pytest.raises(Equivocation):
        adoption.offer(plan(1, salt=1.0).record, at(0))


def test_high_water_orders_like_plans() -> None:
    plans = sorted((plan(n, EPOCH) for n in range(1, 5)), key=lambda signed: signed.order)
    marks = [mark_of(signed).order for signed in plans]
    assert marks == sorted(marks)
    assert codec.decode(mark_of(plans[0]).encode(), HighWater, limit_bytes=999) == mark_of(plans[0])
