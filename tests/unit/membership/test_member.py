"""The joined machine, one behaviour at a time; whole swarms are in tests/simulation."""

from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import TypeVar

import pytest
from msgspec import structs

from helix_p2p import codec
from helix_p2p.cluster.announcement import PeerState, open_announcement, word_of
from helix_p2p.errors import HandshakeRefused, SolverError, SwarmTooSmall
from helix_p2p.identity import Signed
from helix_p2p.membership import effects as fx
from helix_p2p.membership import messages as m
from helix_p2p.membership.credentials import (
    ALL_ROLES,
    certify,
    grant,
    invite_id_of,
    swarm_id_of,
)
from helix_p2p.membership.exclusion import STRANGER_S, STRANGERS_TOLD
from helix_p2p.membership.member import CALM_ROUND_S, ROUND_S, Member
from helix_p2p.membership.outbox import Effects
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.membership.records import RecordRules, check_record
from helix_p2p.membership.revocations import revoke
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.planning.work import Work
from helix_p2p.types import LayerRange

from .makers import (
    EPOCH,
    MODEL,
    SPEED,
    SWARM,
    announcement,
    at,
    check_plan,
    identity,
    peer,
    placement,
    plan,
    record,
)

T = MembershipTiming()
E = TypeVar("E")
STANDBY = OwnState(PeerState.STANDBY, 8_000, SPEED)


def make(number: int = 0, **changes: object) -> Member:
    config = MemberConfig(identity(number), SWARM, 1, check_plan, MODEL)
    return Member(replace(config, **changes), Random(number), at(0))  # type: ignore[arg-type]


def of(kind: type[E], effects: Effects) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(kind: type[E], effects: Effects) -> list[E]:
    return [s.message for s in of(fx.SendTo, effects) if isinstance(s.message, kind)]


def ping(number: int, sequence: int = 1, s: float = 0.0, **fields: object) -> m.Ping:
    said = announcement(sequence=sequence, issued_s=s)
    base = m.Ping(0, b"", record(number, said), 7, at(s).unix_s)
    return structs.replace(base, **fields)


def with_members(*numbers: int, may_plan: bool = True) -> Member:
    member = make(may_plan=may_plan)
    member.set_own(STANDBY, at(0))
    for number in numbers:
        member.on_message(peer(number), ping(number), at(0))
    member.tick(at(0.1))
    return member


def persist(member: Member, effects: Effects, s: float) -> Effects:
    marks = of(fx.PersistHighWater, effects)
    assert len(marks) == 1
    return member.on_high_water_persisted(marks[0].mark.hash, at(s))


def until(member: Member, kind: type[E], start_s: float, end_s: float) -> tuple[float, E]:
    s = start_s
    while s < end_s:
        found = of(kind, member.tick(at(s)))
        if found:
            return s, found[0]
        s += 0.25
    raise AssertionError(f"no {kind.__name__} until {end_s}")


def alone_as_planner() -> tuple[Member, float, fx.StartPlanning]:
    member = make()
    member.set_own(STANDBY, at(0))
    member.on_records([], at(0.1))
    s, job = until(member, fx.StartPlanning, 0.25, 30)
    return member, s, job


# ── joining and telling ─────────────────────────────────────────────────────────────────────────


def test_newborn_publishes_itself_and_looks_for_others() -> None:
    member = make()
    effects = member.tick(at(0))
    [published] = of(fx.PublishRecord, effects)
    assert of(fx.LookUpMembers, effects)
    check_record(
        published.key,
        published.subkey,
        codec.encode(published.record),
        published.expires_in_s,
        rules=RecordRules(SWARM),
        now_unix_s=at(0).unix_s,
    )


def test_ping_makes_a_member_and_is_answered_with_its_number() -> None:
    member = make()
    effects = member.on_message(peer(1), ping(1), at(0))
    assert [joined.peer for joined in of(fx.MemberJoined, effects)] == [peer(1)]
    [pong] = sent(m.Pong, effects)
    assert pong.number == 7
    assert sent(m.GetMembers, effects), "a newcomer asks the first members for the others"


def test_record_from_the_dht_is_asked_before_it_is_believed() -> None:
    member = make()
    effects = member.on_records([record(1)], at(0))
    assert not of(fx.MemberJoined, effects)
    pinged = [s.peer for s in of(fx.SendTo, member.tick(at(0.25)))]
    assert peer(1) in pinged
    pong = m.Pong(0, b"", record(1), 1, at(0.3).unix_s)
    assert of(fx.MemberJoined, member.on_message(peer(1), pong, at(0.3)))


def test_changed_state_is_told_at_once_and_a_storm_of_changes_is_not() -> None:
    member = with_members(1, 2)
    member.tick(at(1.0))
    told = 0
    for step in range(20):
        serving = replace(STANDBY, serving=LayerRange(0, 1 + step % 2), state=PeerState.SERVING)
        s = 1.0 + step * 0.05
        effects = member.set_own(serving, at(s)) + member.tick(at(s))
        if step == 0:
            assert {s.peer for s in of(fx.SendTo, effects)} == {peer(1), peer(2)}
        told += bool(of(fx.PublishRecord, effects))
    assert 1 <= told <= 3
    said = open_announcement(sent(m.Ping, member.tick(at(3.0)))[0].announcement, SWARM)  # type: ignore[arg-type]
    assert said.serving == LayerRange(0, 2), "the last change is told in the end"


def test_each_announcement_has_a_higher_sequence() -> None:
    member = with_members(1)
    orders = []
    for step in range(40):
        pings = sent(m.Ping, member.tick(at(step * 0.5)))
        told = [p.announcement for p in pings if p.announcement is not None]
        orders += [open_announcement(word, SWARM).order for word in told]
        if step % 10 == 9:
            own = replace(STANDBY, memory_bytes=9_000 + step)
            [change] = sent(m.Ping, member.set_own(own, at(step * 0.5 + 0.1)))
            assert change.announcement is not None, "a change is told"
            orders.append(open_announcement(change.announcement, SWARM).order)
    assert orders == sorted(orders)
    assert len(set(orders)) >= 3


def test_who_shows_that_it_holds_our_word_is_not_sent_it_again() -> None:
    member = with_members(1)
    [told] = sent(m.Ping, member.tick(at(5)))
    assert told.announcement is not None
    word = word_of(told.announcement, SWARM)
    pong = m.Pong(0, b"", None, told.number, at(5.1).unix_s, seen=word)
    member.on_message(peer(1), pong, at(5.1))
    [ping_again] = sent(m.Ping, member.tick(at(10)))
    assert ping_again.announcement is None
    [answer] = sent(m.Pong, member.on_message(peer(1), ping(1, s=11, seen=b""), at(11)))
    assert answer.announcement is not None
    before = open_announcement(told.announcement, SWARM).order
    after = open_announcement(answer.announcement, SWARM).order
    assert after > before, "who doubts us gets a fresh word"


def asked_in(effects: tuple[fx.Effect, ...]) -> tuple[bytes, ...]:
    """Which words the answer to a ping asks for."""
    assert sent(m.GetMembers, effects) == [], "a question of its own would be a message more"
    [pong] = sent(m.Pong, effects)
    return pong.asks


def test_words_that_an_answer_asks_for_are_sent_and_those_of_an_answer_asked_for() -> None:
    member = with_members(1, 2)
    [told] = [p for p in sent(m.Ping, member.tick(at(5))) if p.number][:1]
    news = (word_of(record(3), SWARM),)
    asks = (word_of(record(2), SWARM),)
    pong = m.Pong(0, b"", None, told.number, at(5.1).unix_s, news=news, asks=asks)
    effects = member.on_message(peer(1), pong, at(5.1))
    [reply] = sent(m.MembersReply, effects)
    assert [r.signer for r in reply.announcements] == [member.peer_id, peer(2)]
    assert sent(m.GetMembers, effects) == [m.GetMembers(news)]


def test_unknown_word_is_asked_of_who_mentions_it_and_old_ones_are_not() -> None:
    member = with_members(1, 2)
    news = (word_of(record(3), SWARM), word_of(record(2), SWARM))
    effects = member.on_message(peer(1), ping(1, 2, s=1, news=news), at(1))
    assert asked_in(effects) == news[:1]
    again = member.on_message(peer(2), ping(2, 2, s=1, news=news), at(1.1))
    assert asked_in(again) == (), "one was asked already"
    member.on_message(peer(1), m.MembersReply((record(3),)), at(1.2))
    later = member.on_message(peer(1), ping(1, 3, s=20, news=news), at(20))
    assert asked_in(later) == ()
    [reply] = sent(m.MembersReply, member.on_message(peer(1), m.GetMembers(news[1:]), at(21)))
    assert [r.signer for r in reply.announcements] == [peer(2)]


def test_who_returns_to_what_it_said_before_is_asked_for_it_anew() -> None:
    owner, member = make(3), with_members(1, 2)
    here = OwnState(PeerState.SERVING, 8_000, SPEED, LayerRange(0, 2))
    there = replace(here, serving=LayerRange(2, 4))
    for step, own in enumerate((here, there, here)):
        owner.set_own(own, at(step))
        news = (word_of(owner.record, SWARM),)
        asked = member.on_message(peer(1), ping(1, 2 + step, s=step, news=news), at(step))
        assert asked_in(asked) == news
        member.on_message(peer(1), m.MembersReply((owner.record,)), at(step))
    member.on_message(peer(3), m.MembersReply((owner.record,)), at(3))
    assert member.serving()[peer(3)] == LayerRange(0, 2)


def test_who_leaves_says_so_and_is_silent_ever_after() -> None:
    member = with_members(1, 2)
    effects = member.leave(at(1))
    assert {gone.leaving for gone in sent(m.PeerGone, effects)} == {True}
    last = sent(m.Ping, effects)[0].announcement
    assert last is not None
    assert open_announcement(last, SWARM).state is PeerState.LEFT
    assert member.tick(at(2)) == ()
    assert member.on_message(peer(1), ping(1, 2), at(2)) == ()

    other = with_members(0, 2)
    lost = of(fx.MemberLost, other.on_message(peer(2), m.PeerGone(peer(2), leaving=True), at(1)))
    assert lost == [fx.MemberLost(peer(2), "left")]


def test_nobody_can_sign_off_another_peer() -> None:
    member = with_members(1, 2)
    effects = member.on_message(peer(1), m.PeerGone(peer(2), leaving=True), at(1))
    assert not of(fx.MemberLost, effects)
    assert peer(2) in member.view


def test_bad_message_is_reported_and_the_rest_of_it_is_used() -> None:
    member = make()
    forged = replace(record(2), signature=bytes(64))
    effects = member.on_message(peer(1), ping(1, rumours=(forged, record(3))), at(0))
    assert [refused.peer for refused in of(fx.MessageRefused, effects)] == [peer(1)]
    assert sent(m.Pong, effects)
    assert peer(1) in member.view


@pytest.mark.parametrize(
    "message",
    [
        m.PushPlan(Signed("plan", SWARM, b"\xc1", b"short", b"")),
        m.PlanReply(Signed("plan", SWARM, b"\xc1", identity(1).public_key, bytes(64))),
        m.Beat(Signed("lease", SWARM, b"", identity(1).public_key, bytes(64))),
        m.PushProof(record(1), record(1)),
        m.PushRevocations(record(1)),
        m.MembersReply((Signed("", "", b"", b"", b""),)),
        m.Ping(2**80, b"x" * 32, None, -1, float("nan")),
    ],
)
def test_no_message_of_a_stranger_raises(message: fx.MemberMessage) -> None:
    member = with_members(1)
    member.on_message(peer(9), message, at(1))
    member.on_message(peer(1), message, at(1))
    assert peer(1) in member.view


# ── losing ──────────────────────────────────────────────────────────────────────────────────────


def test_killed_peer_is_gone_at_once_when_a_second_one_saw_it() -> None:
    member = with_members(1, 2)
    assert sent(m.Ping, member.on_peer_lost(peer(1), at(1.0))), "it is probed first"
    effects = member.on_unreachable(peer(1), at(1.1))
    assert not of(fx.MemberLost, effects)
    assert sent(m.PeerGone, effects) == [m.PeerGone(peer(1), leaving=False)]
    effects = member.on_message(peer(2), m.PeerGone(peer(1), leaving=False), at(1.2))
    assert of(fx.MemberLost, effects) == [fx.MemberLost(peer(1), "lost")]


def test_rumour_of_a_death_evicts_nobody_that_answers() -> None:
    member = with_members(1, 2, 3)
    for number in (2, 3):
        member.on_message(peer(number), m.PeerGone(peer(1), leaving=False), at(1.0))
    assert peer(1) in member.view.candidates(), "a word of others is no reason to avoid it"
    member.on_message(peer(1), m.Pong(0, b"", record(1), 1, at(1.2).unix_s), at(1.2))
    for step in range(12):
        assert not of(fx.MemberLost, member.tick(at(1.25 + step * 0.25)))
    assert peer(1) in member.view.candidates()


def test_machine_that_slept_does_not_blame_the_others() -> None:
    member = with_members(1, 2)
    effects = member.tick(at(3600))
    assert not of(fx.MemberLost, effects)
    assert not sent(m.PeerGone, effects)


# ── plans ───────────────────────────────────────────────────────────────────────────────────────


def test_mentioned_plan_is_pulled_written_to_disk_and_adopted() -> None:
    member = with_members(1)
    signed = plan(1)
    mention = ping(1, 2, epoch=int(signed.plan.epoch), plan_hash=signed.hash)
    effects = member.on_message(peer(1), mention, at(1))
    assert sent(m.GetPlan, effects) == [m.GetPlan(signed.hash)]
    effects = member.on_message(peer(1), m.PlanReply(signed.record), at(1.1))
    assert not of(fx.Adopted, effects)
    assert of(fx.Adopted, persist(member, effects, 1.2)) == [fx.Adopted(signed, None)]
    assert member.planner == peer(1)
    reply = sent(m.PlanReply, member.on_message(peer(2), m.GetPlan(), at(1.3)))
    assert reply == [m.PlanReply(signed.record)]


def test_evil_plan_is_refused_by_name() -> None:
    member = with_members(1)
    effects = member.on_message(peer(1), m.PushPlan(plan(1, solver="evil").record), at(1))
    [refused] = of(fx.PlanRefused, effects)
    assert refused.peer == peer(1)
    assert not of(fx.PersistHighWater, effects)


def test_lone_peer_plans_soon_after_it_found_itself_alone() -> None:
    member, s, job = alone_as_planner()
    assert s <= T.settle_s + 0.5
    assert [profile.peer for profile in job.snapshot.peers] == [peer(0)]
    effects = member.on_plan_solved(job.request, placement(0), at(s + 0.1))
    effects = persist(member, effects, s + 0.2)
    [adopted] = of(fx.Adopted, effects)
    assert adopted.plan.plan.planner == peer(0)
    assert adopted.plan.plan.epoch >= EPOCH
    assert of(fx.PlanPushed, effects)


def test_peer_that_has_not_looked_yet_does_not_think_itself_alone() -> None:
    member = make()
    member.set_own(STANDBY, at(0))
    for step in range(200):
        assert not of(fx.BecamePlanner, member.tick(at(step * 0.25)))


@pytest.mark.parametrize("change", [{"may_plan": False}, {"model": None}])
def test_bootstrap_node_never_plans(change: dict[str, object]) -> None:
    member = make(0, **change)
    member.on_records([], at(0))
    for step in range(400):
        assert not of(fx.BecamePlanner, member.tick(at(step * 0.25)))


def test_placement_that_counts_on_a_lost_peer_is_planned_again() -> None:
    member, s, job = alone_as_planner()
    effects = member.on_plan_solved(job.request, placement(0, 1), at(s + 0.1))
    assert not of(fx.PersistHighWater, effects)
    assert of(fx.StartPlanning, member.tick(at(s + 0.25)))


def test_same_placement_gives_no_new_plan() -> None:
    member, s, job = alone_as_planner()
    persist(member, member.on_plan_solved(job.request, placement(0), at(s)), s)
    member.on_message(peer(1), ping(1), at(s + 1))
    s, job = until(member, fx.StartPlanning, s + 1, s + 10)
    assert job.live == placement(0)
    effects = member.on_plan_solved(job.request, placement(0), at(s))
    assert not of(fx.PersistHighWater, effects)
    effects = member.on_plan_solved(job.request, placement(0, 1), at(s))
    assert effects == (), "one answer per request"


def works_of(*, loaded: bool, seconds: int) -> list[tuple[Work, object]]:
    """What a planner asks for after a newcomer was seen, whether or not everyone gets ready."""
    member, s, job = alone_as_planner()
    persist(member, member.on_plan_solved(job.request, placement(0), at(s)), s)
    whole = MODEL.all_layers if loaded else None
    member.set_own(OwnState(PeerState.SERVING, 8_000, SPEED, whole), at(s))
    answers = [placement(0, 1), placement(1), placement(1)]
    asked: list[tuple[Work, object]] = []
    for step in range(4 * seconds):
        s += 0.25
        said = announcement(sequence=step + 1, issued_s=s, state=PeerState.SERVING, serving=whole)
        effects = member.on_message(peer(1), ping(1, announcement=record(1, said)), at(s))
        for job in of(fx.StartPlanning, (*effects, *member.tick(at(s)))):
            asked.append((job.work, job.live))
            solved = member.on_plan_solved(job.request, answers[len(asked) - 1], at(s))
            if of(fx.PersistHighWater, solved):
                persist(member, solved, s)
    return asked


def test_after_a_repair_a_better_plan_is_looked_for_until_nothing_moves() -> None:
    assert works_of(loaded=True, seconds=60) == [
        (Work.REPAIR, placement(0)),
        (Work.IMPROVE, placement(0, 1)),
        (Work.IMPROVE, placement(1)),
    ]


def test_no_better_plan_is_looked_for_while_peers_load() -> None:
    assert works_of(loaded=False, seconds=60) == [(Work.REPAIR, placement(0))]


def test_swarm_too_small_is_said_and_tried_again_when_it_grows() -> None:
    member, s, job = alone_as_planner()
    error = SwarmTooSmall(missing_bytes=5)
    effects = member.on_plan_failed(job.request, error, at(s))
    assert of(fx.PlanningFailed, effects) == [fx.PlanningFailed(error)]
    assert not of(fx.StartPlanning, sum((member.tick(at(s + n)) for n in range(1, 30)), ()))
    member.on_message(peer(1), ping(1), at(s + 30))
    until(member, fx.StartPlanning, s + 30, s + 30 + T.replan_most_s)


def test_failed_solver_is_tried_again_after_a_while() -> None:
    member, s, job = alone_as_planner()
    member.on_plan_failed(job.request, SolverError("died"), at(s))
    again_s, again = until(member, fx.StartPlanning, s, s + 20)
    assert again_s >= s + T.retry_plan_s
    assert again.request > job.request


def test_disk_that_cannot_be_written_ends_planning_not_the_process() -> None:
    member, s, job = alone_as_planner()
    effects = member.on_plan_solved(job.request, placement(0), at(s))
    [write] = of(fx.PersistHighWater, effects)
    effects = member.on_high_water_failed(write.mark.hash, at(s))
    assert of(fx.SteppedDown, effects)
    assert member.plan is None
    assert not member.is_planner


def test_planner_never_signs_two_plans_of_one_epoch_even_when_its_first_came_to_nothing() -> None:
    member, s, job = alone_as_planner()
    effects = member.on_plan_solved(job.request, placement(0), at(s))
    [first] = of(fx.PersistHighWater, effects)
    member.on_high_water_failed(first.mark.hash, at(s))
    s, job = until(member, fx.StartPlanning, s + 0.25, s + 30)
    [second] = of(fx.PersistHighWater, member.on_plan_solved(job.request, placement(0), at(s)))
    assert second.mark.epoch > first.mark.epoch


def test_banned_key_cannot_make_the_planner_plan_over_and_over() -> None:
    member, s, job = alone_as_planner()
    persist(member, member.on_plan_solved(job.request, placement(0), at(s)), s)
    one, two = plan(1, salt=0.0), plan(1, salt=1.0)
    member.on_message(peer(1), m.PushProof(one.record, two.record), at(s))
    for n in range(1, 40):
        spam = m.PushPlan(plan(1, EPOCH + n).record)
        assert member.on_message(peer(1), spam, at(s + n / 4)) == ()
        assert not of(fx.StartPlanning, member.tick(at(s + n / 4)))


def test_planner_that_returns_with_its_own_plan_takes_up_its_duty() -> None:
    member = with_members(1)
    own = plan(0)
    persist(member, member.on_message(peer(1), m.PlanReply(own.record), at(1)), 1.1)
    assert member.is_planner
    assert of(fx.StartPlanning, member.tick(at(1.25)))


def test_higher_plan_of_another_steps_the_planner_down() -> None:
    member, s, job = alone_as_planner()
    persist(member, member.on_plan_solved(job.request, placement(0), at(s)), s)
    higher = plan(1, EPOCH + 50)
    effects = persist(member, member.on_message(peer(1), m.PushPlan(higher.record), at(s)), s)
    assert of(fx.SteppedDown, effects)
    assert member.planner == peer(1)


def test_draining_peer_does_not_plan() -> None:
    member, s, _ = alone_as_planner()
    member.set_own(replace(STANDBY, state=PeerState.DRAINING), at(s + 0.1))
    assert of(fx.SteppedDown, member.tick(at(s + 0.25)))


# ── trust ───────────────────────────────────────────────────────────────────────────────────────


def test_equivocating_planner_is_banned_and_everyone_is_told() -> None:
    member = with_members(1, 2, 3)
    one, two = plan(1, salt=0.0), plan(1, salt=1.0)
    persist(member, member.on_message(peer(1), m.PushPlan(one.record), at(1)), 1)
    effects = member.on_message(peer(2), m.PushPlan(two.record), at(1.1))
    assert [banned.peer for banned in of(fx.Banned, effects)] == [peer(1)]
    assert len(sent(m.PushProof, effects)) == 2
    assert peer(1) not in member.view
    assert not of(fx.MemberJoined, member.on_message(peer(1), ping(1, 9), at(2)))

    other = with_members(1, 2, 3)
    told = other.on_message(peer(2), m.PushProof(one.record, two.record), at(1))
    assert of(fx.Banned, told)
    later = other.on_message(peer(3), m.PushPlan(plan(1, EPOCH + 3).record), at(2))
    assert of(fx.PlanRefused, later)
    assert sent(m.PushProof, later), "who spreads its plans is shown the proof"


def test_few_made_up_keys_that_convict_themselves_are_told_and_push_out_no_members_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("helix_p2p.membership.trust.PROOFS_KEPT", 4)
    member = with_members(1, 2, 3)

    def told(number: int, now_s: float) -> bool:
        proof = m.PushProof(plan(number, salt=0.0).record, plan(number, salt=1.0).record)
        return bool(sent(m.PushProof, member.on_message(peer(2), proof, at(now_s))))

    assert told(1, 1)
    assert [told(100 + n, 1) for n in range(STRANGERS_TOLD + 8)].count(True) == STRANGERS_TOLD
    assert told(99, 1 + STRANGER_S)  # a newcomer has met few of those who lie
    assert not told(98, 1 + STRANGER_S)
    assert len(member.trust.proofs) == 4
    assert member.trust.banned(peer(1))
    assert member.trust.banned(peer(98))
    assert not member.trust.banned(peer(100))


def test_word_of_a_banned_member_is_not_taken_from_others_either() -> None:
    member = with_members(1, 2, 3)
    one, two = plan(1, salt=0.0), plan(1, salt=1.0)
    member.on_message(peer(2), m.PushProof(one.record, two.record), at(1))
    for sequence in range(5, 9):
        passed_on = m.MembersReply((record(1, announcement(sequence=sequence)),))
        effects = member.on_message(peer(3), passed_on, at(sequence))
        assert of(fx.MessageRefused, effects)
    assert peer(1) not in member.view


def test_skewed_clock_is_found_said_and_stands_down() -> None:
    member, s, _ = alone_as_planner()
    effects: Effects = ()
    for number in (1, 2, 3):
        theirs = ping(number, unix_s=at(s).unix_s + 300)
        effects += member.on_message(peer(number), theirs, at(s))
    effects = member.tick(at(s + 0.25))
    [skewed] = of(fx.ClockSkewed, effects)
    assert skewed.offset_s == pytest.approx(300, abs=1)
    assert of(fx.SteppedDown, effects)
    for number in (1, 2, 3):
        member.on_message(peer(number), ping(number, unix_s=at(s + 1).unix_s), at(s + 1))
    assert of(fx.ClockSkewed, member.tick(at(s + 1.25))) == [fx.ClockSkewed(None)]


def test_plan_that_leaves_out_old_members_raises_an_alarm() -> None:
    member = with_members(1, 2, may_plan=False)
    persist(member, member.on_message(peer(1), m.PushPlan(plan(1).record), at(1)), 1)
    alarms: list[fx.PlanOmits] = []
    for step in range(1, 300):
        s = 1 + step * 0.5
        for number in (1, 2):
            member.on_message(peer(number), ping(number, 1 + step, s), at(s))
        alarms += of(fx.PlanOmits, member.tick(at(s)))
    assert alarms == [fx.PlanOmits(peer(1), (peer(2),))]


def test_swarm_with_a_root_admits_by_certificate_and_drops_the_revoked() -> None:
    root, invite, other = identity(100), identity(101), identity(102)
    swarm = swarm_id_of(root.public_key)
    expires = at(1000).unix_s
    granted, also = (grant(root, key, ALL_ROLES, expires) for key in (invite, other))

    def signed(number: int, granted_by: Signed, key: int, sequence: int = 1) -> Signed:
        chain = certify(identity(key), granted_by, identity(number).public_key)
        return record(number, announcement(sequence=sequence, credentials=chain), swarm)

    with pytest.raises(HandshakeRefused):
        make(swarm=swarm, root_public_key=root.public_key)
    member = make(
        swarm=swarm,
        root_public_key=root.public_key,
        credentials=certify(invite, granted, identity(0).public_key),
    )
    for number, grants, key in [(1, granted, 101), (2, also, 102)]:
        member.on_message(peer(number), m.Ping(0, b"", signed(number, grants, key)), at(0))
    member.on_message(peer(3), m.Ping(0, b"", record(3, swarm=swarm)), at(0))
    assert {entry.peer for entry in member.view} == {peer(1), peer(2)}

    revoked = revoke(root, 1, ["0" * 16, invite_id_of(other.public_key)])
    effects = member.on_message(peer(1), m.PushRevocations(revoked), at(1))
    assert of(fx.MemberLost, effects) == [fx.MemberLost(peer(2), "banned")]
    assert not member.on_message(peer(1), m.PushRevocations(revoked), at(2)), "known already"


@pytest.mark.parametrize(("everyone_up_to", "told"), [(16, True), (1, False)])
def test_that_a_peer_loads_is_told_at_once_only_in_a_small_swarm(
    everyone_up_to: int, told: bool
) -> None:
    member = make(ping_everyone_up_to=everyone_up_to)
    member.set_own(STANDBY, at(0))
    for number in (1, 2):
        seen = word_of(member.record, SWARM)
        member.on_message(peer(number), ping(number, seen=seen), at(0))
    member.tick(at(1))
    loads = member.set_own(replace(STANDBY, state=PeerState.LOADING), at(2))
    states = [
        open_announcement(p.announcement, SWARM).state
        for p in sent(m.Ping, loads)
        if p.announcement is not None
    ]
    assert (states == [PeerState.LOADING] * 2) is told
    assert states == [] or told
    serves = member.set_own(
        replace(STANDBY, state=PeerState.SERVING, serving=LayerRange(0, 2)), at(4)
    )
    assert sent(m.Ping, serves), "what is served is told at once everywhere"


@pytest.mark.parametrize(("read_of", "asks"), [(3, True), (40, False)])
def test_newcomer_asks_whom_others_know_unless_the_dht_has_told_it(
    read_of: int, asks: bool
) -> None:
    member = make()
    member.on_records([record(number) for number in range(2, 2 + read_of)], at(0))
    first = member.on_message(peer(1), ping(1), at(1))
    assert (sent(m.GetMembers, first) == [m.GetMembers()]) is asks


@pytest.mark.parametrize("everyone_up_to", [16, 1])
def test_who_shows_that_it_does_not_know_us_is_told_who_we_are(everyone_up_to: int) -> None:
    member = make(ping_everyone_up_to=everyone_up_to)
    member.set_own(STANDBY, at(0))
    for number in range(1, 5):
        member.on_message(peer(number), ping(number), at(0))
    effects = member.on_message(peer(1), ping(1, sequence=2, s=200.0, seen=b""), at(200))
    [pong] = sent(m.Pong, effects)
    assert pong.announcement is not None


# ── a large swarm ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("others", "period_s"), [(100, 4.0), (520, 6.0)])
def test_pings_are_rarer_among_thousands(others: int, period_s: float) -> None:
    member = make(may_plan=False)
    member.set_own(STANDBY, at(0))
    for number in range(1, others + 1):
        member.on_message(peer(number), ping(number), at(0))
    told_s = [
        s
        for s in (0.25 * step for step in range(4 * 26))
        if any(said.news for said in sent(m.Ping, member.tick(at(s))))
    ]
    regular = told_s[-3:]
    assert [b - a for a, b in pairwise(regular)] == [period_s, period_s]


def test_member_of_a_large_swarm_says_how_long_it_rests() -> None:
    small, large = with_members(1, 2), with_members(*range(1, 70))

    def rest_s(member: Member, at_s: float) -> float:
        member.tick(at(at_s))
        return member.next_round_s - at(at_s).s

    assert rest_s(large, 2) == ROUND_S, "nobody plans"
    for member in (small, large):
        persist(member, member.on_message(peer(1), m.PushPlan(plan(1).record), at(2)), 2)
    assert rest_s(small, 4) == 0.0
    assert rest_s(large, 4) == CALM_ROUND_S
    assert large.tick(at(5.9)) == ()
    large.on_message(peer(2), ping(2, 2, epoch=EPOCH + 1, plan_hash=bytes(32)), at(6))
    assert rest_s(large, 6) == ROUND_S, "a plan is on its way"
    large.on_message(peer(2), m.PlanReply(None), at(6))
    assert rest_s(large, 2 + T.lease_s) == ROUND_S, "the lease lapses"
