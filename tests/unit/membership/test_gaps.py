"""Plans that refer to announcements which a peer lacks: asked for, bounded, given up."""

from dataclasses import replace

import pytest

from helix_p2p.cluster.announcement import content_of
from helix_p2p.membership import effects as fx
from helix_p2p.membership import gaps as gaps_module
from helix_p2p.membership import messages as m
from helix_p2p.membership.gaps import CONTENTS_PER_QUESTION, PLANS_AT_ONCE, Gaps
from helix_p2p.membership.pulls import Pulls
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.planning.plan import Reference, SignedPlan
from helix_p2p.planning.signed import open_plan, sign_plan
from helix_p2p.types import PeerId

from .makers import EPOCH, SWARM, announcement, at, identity, peer, plan, record
from .test_member import make, of, ping, sent, with_members

T = MembershipTiming()


def referring(planner: int, *others: int, epoch: int = EPOCH) -> SignedPlan:
    """A plan that carries its planner's word and refers to those of others."""
    body = plan(planner, epoch).plan
    references = tuple(Reference(peer(n), content_of(record(n), SWARM)) for n in others)
    made = replace(body, references=references)
    return open_plan(sign_plan(made, identity(planner), SWARM), SWARM)


def nothing_owed() -> Gaps:
    return Gaps(T, Pulls(T))


def test_plan_is_adopted_once_what_it_refers_to_has_come_from_its_sender() -> None:
    member, signed = with_members(1, 2), referring(1, 2, 3)
    missing = content_of(record(3), SWARM)
    [question] = of(fx.SendTo, member.on_message(peer(1), m.PushPlan(signed.record), at(1)))
    assert question == fx.SendTo(peer(1), m.GetMembers((missing,)))
    effects = member.on_message(peer(1), m.MembersReply((record(3),)), at(1.1))
    assert [mark.mark.hash for mark in of(fx.PersistHighWater, effects)] == [signed.hash]
    [adopted] = of(fx.Adopted, member.on_high_water_persisted(signed.hash, at(1.2)))
    assert set(adopted.plan.referred) == {r.content for r in signed.plan.references}


def test_news_that_comes_meanwhile_does_not_undo_what_was_at_hand() -> None:
    member, signed = with_members(1, 2), referring(1, 2, 3)
    member.on_message(peer(1), m.PushPlan(signed.record), at(1))
    changed = record(2, announcement(sequence=5, memory_bytes=9_000))
    member.on_message(peer(2), m.MembersReply((changed,)), at(1.1))
    effects = member.on_message(peer(1), m.MembersReply((record(3),)), at(1.2))
    assert of(fx.PersistHighWater, effects)


def test_any_record_of_the_same_content_will_do() -> None:
    member, signed = with_members(1, 2), referring(1, 3)
    member.on_message(peer(1), m.PushPlan(signed.record), at(1))
    later = record(3, announcement(sequence=9, issued_s=1))
    effects = member.on_message(peer(1), m.MembersReply((later,)), at(1.1))
    assert of(fx.PersistHighWater, effects)


def test_record_of_another_content_fills_no_gap() -> None:
    member, signed = with_members(1, 2), referring(1, 3)
    member.on_message(peer(1), m.PushPlan(signed.record), at(1))
    other = record(3, announcement(memory_bytes=9_000))
    forged = replace(record(3), signature=bytes(64))
    effects = member.on_message(peer(1), m.MembersReply((other, forged)), at(1.1))
    assert not of(fx.PersistHighWater, effects)
    assert member.plan is None


def test_who_follows_the_plan_answers_for_all_that_it_refers_to() -> None:
    member, signed = with_members(1, 2), referring(1, 3)
    content = content_of(record(3), SWARM)
    member.on_message(peer(1), m.PushPlan(signed.record), at(1))
    member.on_message(peer(1), m.MembersReply((record(3),)), at(1.1))
    member.on_high_water_persisted(signed.hash, at(1.2))
    member.on_message(peer(3), m.MembersReply((record(3, announcement(sequence=2)),)), at(2))
    changed = record(3, announcement(sequence=3, memory_bytes=9_000))
    member.on_message(peer(3), m.MembersReply((changed,)), at(3))
    assert member.announcements()[peer(3)].memory_bytes == 9_000
    [reply] = sent(m.MembersReply, member.on_message(peer(2), m.GetMembers((content,)), at(4)))
    assert [content_of(r, SWARM) for r in reply.announcements] == [content]


def test_plan_that_nobody_can_complete_is_asked_of_others_and_given_up() -> None:
    member, signed = with_members(1, 2), referring(1, 3)
    member.on_message(peer(1), m.PushPlan(signed.record), at(1))
    mention = ping(2, 2, s=2, epoch=EPOCH, plan_hash=signed.hash)
    assert not sent(m.GetPlan, member.on_message(peer(2), mention, at(2))), "it is here, with a gap"
    late = at(1 + T.pull_s + 0.1)
    told = of(fx.SendTo, member.tick(late))
    assert [s.peer for s in told if isinstance(s.message, m.GetMembers)] == [peer(2)]
    member.tick(at(2 + 2 * T.pull_s + 0.2))
    again = member.on_message(peer(1), m.PushPlan(signed.record), at(8))
    assert not sent(m.GetMembers, again), "it did not bring what it had promised"


def test_planner_that_may_not_plan_makes_nobody_ask() -> None:
    signed = referring(1, 3)
    banned = with_members(1, 2)
    banned.trust.proofs[peer(1)] = m.PushProof(signed.record, signed.record)
    effects = banned.on_message(peer(2), m.PushPlan(signed.record), at(1))
    assert not sent(m.GetMembers, effects)


def many_missing(count: int) -> SignedPlan:
    signed = referring(1)
    names = tuple(Reference(PeerId(f"p{n}"), n.to_bytes(24, "big")) for n in range(count))
    return replace(signed, plan=replace(signed.plan, references=names))


def test_questions_and_plans_are_bounded() -> None:
    gaps = nothing_owed()
    first = gaps.open(many_missing(1000), peer(1), 0.0)
    assert first is not None
    assert len(first[1]) == CONTENTS_PER_QUESTION
    for number in range(2 * PLANS_AT_ONCE):
        other = replace(many_missing(1), hash=bytes([number]))
        assert gaps.open(other, peer(1), 0.0) is None, "one at a time of each peer"
        gaps.open(other, PeerId(f"source {number}"), 0.0)
    assert len(gaps) == PLANS_AT_ONCE


def test_what_came_leads_to_the_next_question_and_what_did_not_to_none() -> None:
    gaps = nothing_owed()
    asked = gaps.open(many_missing(300), peer(1), 0.0)
    assert asked is not None
    assert gaps.take(peer(1), {b"?": record(2)}, 0.1) == ([], [])
    _, [(source, rest)] = gaps.take(peer(1), dict.fromkeys(asked[1], record(2)), 0.2)
    assert (source, len(rest)) == (peer(1), 300 - CONTENTS_PER_QUESTION)
    whole, _ = gaps.take(peer(2), dict.fromkeys(rest, record(2)), 0.3)
    assert len(whole) == 1


def test_who_makes_us_keep_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps_module, "KEPT_LIMIT_BYTES", 2 * len(record(2).body))
    gaps = nothing_owed()
    asked = gaps.open(many_missing(10), peer(1), 0.0)
    assert asked is not None
    gaps.take(peer(1), dict.fromkeys(asked[1][:3], record(2)), 0.1)
    assert len(gaps) == 0
    assert gaps.open(many_missing(10), peer(1), 0.2) is None


def test_plan_that_trickles_in_for_ever_is_given_up() -> None:
    gaps, now_s = nothing_owed(), 0.0
    asked = gaps.open(many_missing(1000), peer(1), now_s)
    while len(gaps) and now_s < 100:
        assert asked is not None
        now_s += 0.9 * T.pull_s
        _, questions = gaps.take(peer(1), {asked[1][0]: record(2)}, now_s)
        asked = questions[0]
        assert gaps.due(now_s) == []
    assert now_s < 12 * T.pull_s


def test_large_draft_refers_to_all_but_its_own_word() -> None:
    member = make(0, carried_limit_bytes=0)
    member.on_message(peer(1), m.MembersReply((record(1),)), at(0.1))
    draft = member._duty.draft()
    assert draft is not None
    assert [r.signer for r in draft.records] == [peer(0)]
    assert [r.peer for r in draft.references] == [peer(1)]
