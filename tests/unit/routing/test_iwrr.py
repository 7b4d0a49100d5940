from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from helix_p2p.routing.iwrr import AHEAD_TURNS, InterleavedRoundRobin

weights_of_targets = st.dictionaries(
    st.sampled_from("abcdef"), st.integers(1, 1000), min_size=1, max_size=6
)


@given(weights_of_targets, st.integers(1, 400))
def test_shares_follow_weights_within_one_turn(weights, choices):
    wheel = InterleavedRoundRobin[str]()
    wheel.set_weights(weights)
    counts = Counter(wheel.choose() for _ in range(choices))
    for one in weights:
        for other in weights:
            served = abs(counts[one] / weights[one] - counts[other] / weights[other])
            assert served <= 1 / weights[one] + 1 / weights[other] + 1e-9


@given(weights_of_targets, st.lists(st.sampled_from("abcdef"), min_size=1, max_size=400))
def test_preferences_move_shares_by_a_few_turns_at_most(weights, wanted):
    wheel = InterleavedRoundRobin[str]()
    wheel.set_weights(weights)
    counts = Counter(wheel.choose(preferred=target) for target in wanted)
    turns = AHEAD_TURNS + 1.5
    for one in weights:
        for other in weights:
            served = abs(counts[one] / weights[one] - counts[other] / weights[other])
            assert served <= turns / weights[one] + turns / weights[other] + 1e-9


def test_preferred_target_goes_first_until_it_is_too_far_ahead():
    wheel = InterleavedRoundRobin[str]()
    wheel.set_weights({"a": 1, "b": 1})
    chosen = [wheel.choose(preferred="b") for _ in range(100)]
    assert chosen[: int(AHEAD_TURNS)] == ["b"] * int(AHEAD_TURNS)
    assert abs(chosen.count("a") - 50) <= AHEAD_TURNS
    assert wheel.choose({"a"}, preferred="b") == "a"


def test_equal_weights_alternate():
    wheel = InterleavedRoundRobin[str]()
    wheel.set_weights({"a": 1, "b": 1})
    assert [wheel.choose() for _ in range(4)] == ["a", "b", "a", "b"]


def test_heavier_target_is_chosen_first_by_a_fresh_wheel():
    wheel = InterleavedRoundRobin[str]()
    wheel.set_weights({"a": 1, "b": 9})
    assert wheel.choose() == "b"


def test_target_that_was_not_allowed_for_long_is_not_flooded_afterwards():
    wheel = InterleavedRoundRobin[str]()
    wheel.set_weights({"a": 1, "b": 1})
    for _ in range(100):
        assert wheel.choose(allowed={"a"}) == "a"
    counts = Counter(wheel.choose() for _ in range(10))
    assert abs(counts["a"] - counts["b"]) <= 1


def test_late_joiner_gets_its_share_from_now_on_only():
    wheel = InterleavedRoundRobin[str]()
    wheel.set_weights({"a": 1})
    for _ in range(50):
        wheel.choose()
    wheel.set_weights({"a": 1, "b": 1})
    counts = Counter(wheel.choose() for _ in range(20))
    assert abs(counts["a"] - counts["b"]) <= 1


def test_cost_is_charged_in_tokens_not_in_requests():
    wheel = InterleavedRoundRobin[str]()
    wheel.set_weights({"a": 1, "b": 1})
    tokens = Counter()
    for cost in [100, 1, 1, 1, 100, 1, 1, 1] * 50:
        tokens[wheel.choose(cost=cost)] += cost
    assert abs(tokens["a"] - tokens["b"]) <= 200


def test_nothing_allowed_gives_none():
    wheel = InterleavedRoundRobin[str]()
    wheel.set_weights({"a": 1})
    assert wheel.choose(allowed=set()) is None
