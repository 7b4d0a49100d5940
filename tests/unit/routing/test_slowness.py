"""Who has become slow is found from whole pipelines, and nobody else is blamed."""

import itertools

from helix_p2p.routing.slowness import RECENT_S, SPAN_TOKENS, SPANS, TRY_S, SlowPeers
from helix_p2p.types import PeerId, SessionId

A, B, C, D = (PeerId(name) for name in "abcd")
ROUTES = ((A, C), (A, D), (B, C), (B, D))


class Feed:
    """Sessions one after another over the routes; a route is as slow as its slowest peer."""

    def __init__(self):
        self.slow = SlowPeers()
        self.now_s = 0.0
        self._names = itertools.count()

    def rounds(self, count, step_of, routes=ROUTES):
        for _, route in itertools.product(range(count), routes):
            session = SessionId(next(self._names).to_bytes(16, "big"))
            if self.slow.slow(self.now_s) & set(route):
                continue
            for _ in range(2 * SPAN_TOKENS + 1):
                self.slow.token(session, route, self.now_s)
                self.now_s += max(step_of(peer) for peer in route)
            self.slow.over(session)

    @property
    def found(self):
        return self.slow.slow(self.now_s)


def test_peer_that_becomes_slow_is_found_and_nobody_else():
    feed = Feed()
    feed.rounds(3, lambda peer: 0.01)
    assert feed.found == frozenset()
    feed.rounds(2, lambda peer: 0.1 if peer == C else 0.01)
    assert feed.found == {C}


def test_slow_hardware_is_no_fault():
    feed = Feed()
    feed.rounds(6, lambda peer: 0.1 if peer == C else 0.01)
    assert feed.found == frozenset()


def test_load_that_slows_everybody_is_no_fault():
    feed = Feed()
    feed.rounds(3, lambda peer: 0.01)
    feed.rounds(3, lambda peer: 0.1)
    assert feed.found == frozenset()


def test_slow_peer_is_tried_again_and_left_out_for_longer_while_it_stays_slow():
    feed = Feed()
    feed.rounds(3, lambda peer: 0.01)
    grey = {C: 0.1}
    feed.rounds(2, lambda peer: grey.get(peer, 0.01))
    feed.now_s += 31
    assert feed.found == frozenset()
    feed.rounds(3, lambda peer: grey.get(peer, 0.01))
    assert feed.found == {C}
    feed.now_s += 31
    assert feed.found == {C}
    feed.now_s += 30
    feed.rounds(4, lambda peer: 0.01)
    assert feed.found == frozenset()


def test_new_plan_forgets_what_was_measured():
    feed = Feed()
    feed.rounds(3, lambda peer: 0.01)
    feed.slow.forget()
    feed.rounds(SPANS, lambda peer: 0.1 if peer == C else 0.01)
    assert feed.found == frozenset()


def test_of_the_only_pipeline_each_is_gone_around_in_turn_and_the_slow_one_is_found():
    feed, lone, around = Feed(), ((A, C, D),), ((A, B, D),)
    feed.rounds(3, lambda peer: 0.01, lone)
    assert feed.slow.suspect(feed.now_s) is None
    feed.rounds(3, lambda peer: 0.1 if peer == C else 0.01, lone)
    assert feed.found == frozenset(), "nobody to compare with"
    turns = [feed.slow.suspect(feed.now_s + TRY_S * turn, but=A) for turn in range(3)]
    assert turns == [C, D, C], "one after another, and never who is on every route"
    feed.rounds(1, lambda peer: 0.01, around)
    feed.rounds(1, lambda peer: 0.1 if peer == C else 0.01, lone)
    assert feed.found == {C}
    assert feed.slow.suspect(feed.now_s + TRY_S) != C


def test_one_route_at_a_time_is_spent_on_finding_out_and_none_when_it_is_over():
    feed, lone = Feed(), ((A, C),)
    feed.rounds(3, lambda peer: 0.01, lone)
    feed.rounds(3, lambda peer: 0.1, lone)
    assert feed.slow.suspect(feed.now_s) == A
    assert feed.slow.suspect(feed.now_s) is None
    assert feed.slow.suspect(feed.now_s + RECENT_S + 1) is None, "long ago"
    feed.rounds(1, lambda peer: 0.1, lone)
    assert feed.slow.suspect(feed.now_s + TRY_S) is not None
    feed.rounds(1, lambda peer: 0.01, lone)
    assert feed.slow.suspect(feed.now_s + 2 * TRY_S) is None, "as fast as ever"


def test_a_way_around_that_is_as_slow_means_load():
    feed = Feed()
    feed.rounds(3, lambda peer: 0.01, ((A, C), (A, D)))
    feed.rounds(3, lambda peer: 0.1, ((A, C),))
    feed.rounds(3, lambda peer: 0.1, ((A, D), (A, C)))
    assert feed.found == frozenset()
