"""Plans that were mentioned: of whom they are asked, how long, and of whom not."""

from helix_p2p.membership.pulls import Pulls
from helix_p2p.membership.timing import MembershipTiming

from .makers import peer

T = MembershipTiming()


def test_slow_answer_is_asked_of_another_peer_and_given_up_when_nobody_is_left() -> None:
    pulls = Pulls(T)
    assert pulls.ask(b"h", peer(1), 0.0)
    assert not pulls.ask(b"h", peer(2), 0.1)
    assert pulls.due(0.9 * T.hedge_s) == []
    assert pulls.due(T.hedge_s) == [(peer(2), b"h")]
    assert pulls.due(T.pull_s) == []
    assert pulls.owes(peer(1), T.pull_s)
    assert not pulls.owes(peer(2), T.pull_s), "it has time left"
    assert len(pulls) == 1
    assert pulls.due(T.hedge_s + T.pull_s) == []
    assert len(pulls) == 0


def test_at_most_three_are_asked_at_a_time_and_never_who_owes() -> None:
    pulls = Pulls(T)
    pulls.blame(peer(3), 0.0)
    for number in range(1, 9):
        pulls.ask(b"h", peer(number), 0.0)
    asked = [pulls.due(step * T.hedge_s) for step in (1, 2)]
    assert asked == [[(peer(2), b"h")], [(peer(4), b"h")]]
    assert pulls.due(T.pull_s - 0.01) == [], "three are asked"
    assert pulls.due(T.pull_s) == [(peer(5), b"h")]


def test_who_was_only_slow_owes_nothing_when_another_brings_the_plan() -> None:
    pulls = Pulls(T)
    pulls.ask(b"h", peer(1), 0.0)
    pulls.ask(b"h", peer(2), 0.0)
    pulls.due(T.hedge_s)
    pulls.done(b"h", peer(2))
    assert pulls.due(T.pull_s) == []
    assert not pulls.owes(peer(1), T.pull_s)


def test_who_mentions_plans_that_never_come_is_not_asked_again_for_a_while() -> None:
    pulls = Pulls(T)
    assert pulls.ask(b"fake", peer(1), 0.0)
    assert not pulls.ask(b"another", peer(1), 0.1), "one at a time of each peer"
    assert pulls.due(T.pull_s) == []
    assert not pulls.ask(b"a third", peer(1), T.pull_s + 0.1)
    assert len(pulls) == 0, "so nobody waits for it"
    assert pulls.ask(b"good", peer(2), T.pull_s + 0.1)
    assert pulls.ask(b"late", peer(1), T.pull_s + T.rejected_s)


def fail(pulls: Pulls, at_s: float) -> float:
    """Ask peer 1 in vain; for how long it is not asked after that."""
    assert pulls.ask(b"%f" % at_s, peer(1), at_s)
    assert pulls.due(at_s + T.pull_s) == []
    waits = [s for s in range(1, 60) if not pulls.owes(peer(1), at_s + T.pull_s + s)]
    return waits[0]


def test_one_lost_answer_costs_little_and_each_further_one_twice_as_much() -> None:
    pulls = Pulls(T)
    assert fail(pulls, 0.0) == 2 * T.pull_s
    assert fail(pulls, 20.0) == 4 * T.pull_s
    assert fail(pulls, 50.0) == 8 * T.pull_s
    assert fail(pulls, 90.0) == T.rejected_s
    assert fail(pulls, 200.0) == 2 * T.pull_s, "long ago"


def test_who_brings_a_plan_owes_nothing() -> None:
    pulls = Pulls(T)
    fail(pulls, 0.0)
    assert pulls.ask(b"good", peer(1), 20.0)
    pulls.done(b"good", peer(2))
    assert fail(pulls, 20.0) == 4 * T.pull_s, "another brought it"
    assert pulls.ask(b"better", peer(1), 50.0)
    pulls.done(b"better", peer(1))
    assert fail(pulls, 50.0) == 2 * T.pull_s


def test_pulls_under_way_are_bounded() -> None:
    pulls = Pulls(T)
    asked = [pulls.ask(bytes([n]), peer(n), 0.0) for n in range(100)]
    assert sum(asked) == 8
    pulls.done(b"\x00", peer(0))
    assert pulls.ask(b"new", peer(100), 0.0)
