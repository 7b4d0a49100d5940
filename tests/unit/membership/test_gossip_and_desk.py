"""Whom to tell, what to ask for, when to plan again."""

from random import Random

import pytest

from helix_p2p.membership.credentials import ALL_ROLES
from helix_p2p.membership.detector import Detector
from helix_p2p.membership.entry import MemberEntry
from helix_p2p.membership.gossip import GONE_PER_MESSAGE, RUMOURS_PER_MESSAGE, Gossip
from helix_p2p.membership.replanning import MOST_CALM, Desk
from helix_p2p.membership.timing import MembershipTiming

from .makers import announcement, peer, record

T = MembershipTiming()
MANY = sorted(peer(n) for n in range(1, 200))


def gossip(me: int = 0) -> Gossip:
    return Gossip(peer(me), Random(7), 16, 8)


def member(number: int) -> MemberEntry:
    said, detector = announcement(), Detector(T, 0.0)
    return MemberEntry(peer(number), record(1), said, ALL_ROLES, detector, 0.0, 0.0, b"", b"")


def test_small_swarm_pings_everyone() -> None:
    assert gossip().targets(MANY[:16]) == MANY[:16]
    assert gossip().targets([]) == []


def test_pings_are_bounded_in_a_large_swarm() -> None:
    for _ in range(20):
        targets = gossip().targets(MANY)
        assert len(targets) == len(set(targets)) == 2


def test_everyone_in_a_large_swarm_is_watched_by_one() -> None:
    watchers = dict.fromkeys(MANY, 0)
    for me in MANY:
        others = [p for p in MANY if p != me]
        for watched in Gossip(me, Random(1), 16, 8).watched(others):
            watchers[watched] += 1
    assert set(watchers.values()) == {1}


def test_lots_fall_as_often_as_is_expected() -> None:
    drawing = gossip()
    drawn = [drawing.by_lot(0.25) for _ in range(1000)]
    assert set(drawn) == {0, 1}
    assert 200 < sum(drawn) < 300
    assert {drawing.by_lot(2.0) for _ in range(20)} == {2}


def test_rumours_are_few_per_message_and_die_out() -> None:
    spreading = gossip()
    for number in range(1, 30):
        spreading.spread(member(number), members=30)
    told = 0
    while rumours := spreading.rumours(peer(99)):
        assert len(rumours) <= RUMOURS_PER_MESSAGE
        told += len(rumours)
    assert told == 29 * (5 + 4)
    spreading.spread(member(1), members=1)
    assert spreading.rumours(peer(1)) == [], "nobody is told of itself"


def test_who_is_no_member_any_more_is_no_news() -> None:
    spreading, leaver, stayer = gossip(), member(1), member(2)
    spreading.spread(leaver, members=30)
    spreading.spread(stayer, members=30)
    leaver.present = False
    assert spreading.rumours(peer(99)) == [stayer]


@pytest.mark.parametrize(("members", "times"), [(16, 15), (64, 11), (1000, 8), (10_000, 10)])
def test_words_are_told_by_each_a_few_times_whatever_the_size(members: int, times: int) -> None:
    spreading = gossip()
    spreading.spread(member(1), members=members)
    told = 0
    while spreading.rumours(peer(99)):
        told += 1
    assert told == times


def test_round_trip_counts_only_from_whom_it_was_sent_to() -> None:
    pinging = gossip()
    number = pinging.ping_sent(peer(1), 10.0)
    assert pinging.round_trip_s(peer(2), number, 10.5) is None
    assert pinging.round_trip_s(peer(1), number, 10.5) == pytest.approx(0.5)
    assert pinging.round_trip_s(peer(1), number, 10.6) is None


def test_burst_of_joins_costs_one_plan_and_a_stream_is_not_put_off_for_ever() -> None:
    desk = Desk(T)
    taken = []
    now_s = 0.0
    while now_s < 20:
        if now_s < 12:
            desk.soon(now_s)
        if (request := desk.take(now_s)) is not None:
            taken.append(now_s)
            assert desk.finish(request)
        now_s += 0.5
    assert taken[0] == pytest.approx(T.replan_most_s, abs=0.5)
    assert len(taken) <= 4


def test_loss_is_planned_at_once_even_when_a_join_waits() -> None:
    desk = Desk(T)
    desk.soon(0.0)
    desk.at_once(0.5)
    desk.soon(0.6)
    assert desk.take(0.6) is not None


def test_one_job_at_a_time_and_old_answers_do_not_count() -> None:
    desk = Desk(T)
    desk.at_once(0.0)
    first = desk.take(0.0)
    assert first is not None
    desk.at_once(0.1)
    assert desk.take(0.2) is None, "the solver is at work"
    desk.supersede()
    second = desk.take(0.3)
    assert second is not None
    assert not desk.finish(first)
    assert desk.finish(second)
    assert not desk.finish(second)


def test_after_a_failure_it_waits_and_a_loss_does_not() -> None:
    desk = Desk(T)
    desk.later(0.0)
    assert desk.take(T.retry_plan_s - 0.1) is None
    desk.at_once(1.0)
    assert desk.take(1.0) is not None


def test_who_steps_down_forgets_its_calendar() -> None:
    desk = Desk(T)
    desk.at_once(0.0)
    desk.clear()
    assert desk.take(100.0) is None


def test_small_changes_of_a_large_swarm_gather_and_large_ones_do_not_wait() -> None:
    desk = Desk(T)
    desk.soon(0.0, members=1000)
    calm_s = T.replan_most_s + MOST_CALM * (T.replan_calm_s - T.replan_most_s)
    assert desk.take(calm_s - 1) is None
    assert desk.take(calm_s) == 1
    desk.finish(1)
    for step in range(51):
        desk.soon(200.0 + step / 100, members=1000)
    assert desk.take(200.6 + T.replan_s) == 2
    desk.finish(2)
    desk.soon(300.0, members=10)
    assert desk.take(301.0 + T.replan_s) == 3


def test_a_better_plan_is_looked_for_when_it_has_been_calm_for_a_while() -> None:
    desk = Desk(T)
    desk.at_once(0.0)
    repair = desk.take(0.0)
    assert repair is not None
    assert desk.finish(repair)
    desk.improve(0.0)
    assert desk.take_improvement(T.improve_s - 0.1) is None
    improvement = desk.take_improvement(T.improve_s)
    assert improvement is not None
    assert desk.take_improvement(T.improve_s + 1) is None, "one is under way"


def test_an_improvement_gives_way_to_a_repair_but_no_repair_to_another() -> None:
    desk = Desk(T)
    desk.improve(0.0)
    improvement = desk.take_improvement(T.improve_s)
    desk.at_once(20.0)
    repair = desk.take(20.0)
    assert repair is not None
    assert improvement is not None
    assert not desk.finish(improvement)
    desk.at_once(20.1)
    assert desk.take(20.1) is None
    assert desk.take_improvement(20.1) is None
    assert desk.finish(repair)


def test_a_large_swarm_is_searched_rarely_however_often_it_changes() -> None:
    desk, searches = Desk(T), 0
    for second in range(600):
        desk.improve(float(second), members=1000)
        request = desk.take_improvement(float(second))
        if request is not None:
            searches += 1
            assert desk.finish(request)
    assert searches <= 600 / T.improve_calm_s


def test_lost_members_are_told_a_few_times_and_a_few_per_message() -> None:
    telling = gossip()
    for number in range(GONE_PER_MESSAGE + 5):
        telling.lost(bytes([number]) * 8, members=30)
    told = 0
    while words := telling.gone():
        assert len(words) <= GONE_PER_MESSAGE
        told += len(words)
    assert told == (GONE_PER_MESSAGE + 5) * (5 + 4)
