"""A judge whose word has chance in it: the search it leads, the finals, what waiting weighs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from helix_p2p.cluster.reference import reference_snapshot
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import ConfigError
from helix_p2p.planning.appraisal import served_score
from helix_p2p.planning.options import Judge, Served
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import PlanOptions, plan

SNAPSHOT = reference_snapshot("single24", "70b")

Shape = tuple[tuple[int, int], ...]


def shape(placement: Placement) -> Shape:
    return tuple(sorted((a.layers.start, a.layers.end) for a in placement.assignments))


def alone(shown: Shape) -> int:
    """Layers that one peer holds alone: what the judges here go by."""
    held = Counter(layer for start, end in shown for layer in range(start, end))
    return sum(1 for count in held.values() if count == 1)


class Recorded:
    """A judge that keeps what it was asked."""

    def __init__(self, rate: Callable[[Shape, int], float]) -> None:
        self.asked: list[tuple[Shape, int]] = []
        self._rate = rate

    def serves(self, _snapshot: Snapshot, placement: Placement, trial: int) -> Served:
        self.asked.append((shape(placement), trial))
        return Served(self._rate(shape(placement), trial), 0.0)

    def plan(self, finals: int = 0, moves: int = 15) -> Placement:
        judge = Judge(self.serves, finals)
        return plan(SNAPSHOT, PlanOptions(steps=10, judge=judge, judged_moves=moves))


def replicated(shown: Shape, _trial: int) -> float:
    return 1000.0 - alone(shown)


def test_a_judge_chooses_among_finalists_and_leads_the_last_changes() -> None:
    judge = Recorded(replicated)
    found = judge.plan()
    values = [replicated(*asked) for asked in judge.asked]
    assert replicated(shape(found), 0) == max(values) > max(values[:4])
    assert found == Recorded(replicated).plan()


def test_nothing_is_asked_twice_in_one_trial_and_changes_in_the_first_alone() -> None:
    judge = Recorded(replicated)
    judge.plan(finals=2)
    assert max(Counter(judge.asked).values()) == 1
    trials = Counter(trial for _, trial in judge.asked)
    assert trials[0] > 10
    assert 2 <= trials[1] == trials[2] <= 4


def test_what_won_by_luck_loses_the_finals() -> None:
    def lucky(shown: Shape, trial: int) -> float:
        return 1000.0 + alone(shown) if trial == 0 else 1000.0 / (1 + alone(shown))

    by_luck = alone(shape(Recorded(lucky).plan()))
    judge = Recorded(lucky)
    found = alone(shape(judge.plan(finals=1)))
    finalists = [alone(shown) for shown, trial in judge.asked if trial == 1]
    assert by_luck in finalists
    assert found == min(finalists) < by_luck


def test_what_finals_cannot_tell_apart_is_left_to_the_estimate() -> None:
    judge = Recorded(lambda shown, trial: 1000.0 + (alone(shown) if trial == 0 else 0.0))
    first = shape(plan(SNAPSHOT, PlanOptions(steps=10)))
    assert shape(judge.plan(finals=1)) in {first, judge.asked[0][0]}


def test_what_waiting_weighs_is_the_users_choice() -> None:
    scores = [served_score(100.0, 1.0, weight) for weight in (0.0, 0.4, 1.0)]
    assert scores[0] == served_score(100.0, 9.0, 0.0) == 100.0
    assert all(a > b for a, b in pairwise(scores))
    assert served_score(0.0, float("nan"), 0.4) == 0.0

    def more_or_sooner(_snapshot: Snapshot, placement: Placement, _trial: int) -> Served:
        shown = alone(shape(placement))
        return Served(1000.0 + shown, 5.0 * shown)

    options = PlanOptions(steps=10, judge=Judge(more_or_sooner), judged_moves=5)
    throughput, both = (
        alone(shape(plan(SNAPSHOT, replace(options, latency_weight=weight))))
        for weight in (0.0, 0.4)
    )
    assert throughput > both


@pytest.mark.parametrize("weight", [-0.1, 10.5, float("nan")])
def test_a_weight_that_makes_no_sense_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="weight"):
        PlanOptions(latency_weight=weight)


def test_finals_that_time_cuts_short_leave_the_searchs_choice() -> None:
    now_s = 0.0

    def rate(shown: Shape, trial: int) -> float:
        nonlocal now_s
        now_s += 1.0 if trial == 0 else 60.0
        return 1000.0 + alone(shown) if trial == 0 else 1000.0 / (1 + alone(shown))

    judge = Recorded(rate)
    timed = PlanOptions(
        steps=10,
        judge=Judge(judge.serves, finals=1),
        judged_moves=5,
        deadline_s=100.0,
        clock=lambda: now_s,
    )
    found = plan(SNAPSHOT, timed)
    assert [trial for _, trial in judge.asked].count(1) == 2, "none begins when time is over"
    by_search = max(judge.asked, key=lambda asked: (asked[1] == 0, alone(asked[0])))
    assert shape(found) == by_search[0]
