"""What witnesses say of a peer's claims, and what is made of it."""

from dataclasses import replace
from random import Random

import pytest

from helix_p2p.cluster.announcement import Announcement, LinkMeasurement, PaceMeasurement
from helix_p2p.cluster.belief import (
    FULL_BELIEF,
    WITNESSES,
    Belief,
    beliefs,
    subjects_of,
    witnesses_of,
)
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.cluster.snapshot import snapshot_of
from helix_p2p.types import PeerId
from tests.unit.planning.swarms import make_announcements, make_model

MODEL = make_model()
SWARM = {
    i.peer_id: replace(a, uplink_bytes_per_s=1e7, downlink_bytes_per_s=1e7)
    for i, a in make_announcements(MODEL, [10**9] * 40)
}
PEERS = sorted(SWARM)
SUBJECT = PEERS[7]
ITS_WITNESSES = witnesses_of(PEERS)[SUBJECT]


def told(slower: dict[PeerId, float], of: PeerId = SUBJECT) -> dict[PeerId, Announcement]:
    """The swarm, where these witnesses say that `of` is so many times slower than it says."""
    return {
        peer: replace(word, paces=(PaceMeasurement(of, slower[peer]),)) if peer in slower else word
        for peer, word in SWARM.items()
    }


def of_subject(said: dict[PeerId, Announcement]) -> Belief:
    return beliefs(said).get(SUBJECT, FULL_BELIEF)


def test_witnesses_and_subjects_are_the_same_thing_from_both_sides() -> None:
    for count in (2, 5, 16, 17, 40):
        peers = PEERS[:count]
        witnesses = witnesses_of(peers)
        for me in peers:
            assert me not in witnesses[me]
            assert len(set(witnesses[me])) == min(WITNESSES, count - 1)
            assert set(subjects_of(me, peers)) == {p for p in peers if me in witnesses[p]}


@pytest.mark.parametrize("times", [10.0, 1e4, 1e9])
def test_who_claims_many_times_its_speed_is_planned_with_as_measured(times: float) -> None:
    said = told(dict.fromkeys(ITS_WITNESSES[:8], times))
    assert of_subject(said).slower == times
    honest = {p.peer: p for p in snapshot_of(MODEL, SWARM.items()).peers}
    planned = {p.peer: p for p in snapshot_of(MODEL, said.items()).peers}
    assert planned[SUBJECT].tokens_per_s == pytest.approx(
        [t / times for t in honest[SUBJECT].tokens_per_s]
    )
    assert all(planned[p] == honest[p] for p in PEERS if p != SUBJECT)


@pytest.mark.parametrize("accusers", [1, 2, 7])
def test_few_witnesses_who_speak_first_cut_nobody_down(accusers: int) -> None:
    assert of_subject(told(dict.fromkeys(ITS_WITNESSES[:accusers], 100.0))) == FULL_BELIEF
    line = dict.fromkeys(ITS_WITNESSES[:accusers], 1.0)
    assert of_subject(lines(line, claimed=1e7)) == FULL_BELIEF


def test_in_a_swarm_of_three_nobody_is_cut_down() -> None:
    three = {p: replace(SWARM[p], paces=(PaceMeasurement(PEERS[0], 100.0),)) for p in PEERS[:3]}
    assert beliefs(three) == {}


def test_minority_of_witnesses_changes_nothing_and_others_are_not_heard() -> None:
    votes = dict.fromkeys(ITS_WITNESSES, 1.0) | dict.fromkeys(ITS_WITNESSES[:7], 1000.0)
    assert of_subject(told(votes)) == FULL_BELIEF
    strangers = [p for p in PEERS if p not in ITS_WITNESSES and p != SUBJECT]
    assert len(strangers) > WITNESSES
    assert of_subject(told(dict.fromkeys(strangers, 1000.0))) == FULL_BELIEF
    assert of_subject(told({SUBJECT: 1000.0})) == FULL_BELIEF


def test_minority_of_friends_holds_no_liar_up() -> None:
    votes = dict.fromkeys(ITS_WITNESSES, 10.0) | dict.fromkeys(ITS_WITNESSES[:7], 1.0)
    assert of_subject(told(votes)).slower == 10.0


@pytest.mark.parametrize("slower", [float("nan"), float("inf"), -3.0, 0.0, 2.5])
def test_small_differences_and_nonsense_are_no_lie(slower: float) -> None:
    assert of_subject(told(dict.fromkeys(ITS_WITNESSES, slower))) == FULL_BELIEF


@pytest.mark.parametrize("layer_s", [0.0, -1.0, 5e-324, 0.9e-9, 1.1e9, 1e308, float("nan")])
def test_speed_that_no_device_has_is_no_claim(layer_s: float) -> None:
    for profile in ((((16, layer_s),), ((1, 1.0),)), (((16, 1.0),), ((1, layer_s),))):
        with pytest.raises(ValueError, match="1e-9 to 1e9 seconds"):
            SpeedProfile(*profile)


@pytest.mark.parametrize("head_s", [-1.0, 1.1e9, float("inf"), float("nan")])
def test_head_that_no_device_has_is_no_claim(head_s: float) -> None:
    with pytest.raises(ValueError, match="head"):
        SpeedProfile(((16, 1.0),), ((1, 1.0),), head_s)


def test_who_is_slower_than_anybody_waits_is_taken_to_be_as_slow_as_that() -> None:
    slowest = SpeedProfile(((16, 1.0),), ((1, 1.0),), 1.0).slowed(1e10)
    assert slowest == SpeedProfile(((16, 1e9),), ((1, 1e9),), 1e9)


def test_times_that_fell_as_they_were_measured_do_not_go_on_to_fall() -> None:
    profile = SpeedProfile(((16, 2.0), (64, 1.0)), ((1, 3.0), (2, 2.0), (8, 3.0)))
    assert [profile.prefill_s(tokens) for tokens in (40, 64, 763)] == [1.5, 1.0, 1.0]
    assert profile.decode_s(14) == 4.0


def test_nobody_is_believed_faster_than_it_says() -> None:
    said = told(dict.fromkeys(ITS_WITNESSES, 0.01))
    assert snapshot_of(MODEL, said.items()) == snapshot_of(MODEL, SWARM.items())


def lines(measured: dict[PeerId, float], claimed: float | None) -> dict[PeerId, Announcement]:
    said = {
        peer: replace(word, links=(LinkMeasurement(SUBJECT, 0.01, measured[peer], measured[peer]),))
        if peer in measured
        else word
        for peer, word in SWARM.items()
    }
    claims = replace(SWARM[SUBJECT], uplink_bytes_per_s=claimed, downlink_bytes_per_s=claimed)
    return {**said, SUBJECT: claims}


def test_line_ten_times_as_wide_as_anyone_measured_is_cut_down() -> None:
    said = lines(dict.fromkeys(ITS_WITNESSES[:9], 1e6), claimed=1e7)
    assert of_subject(said) == Belief(1.0, 1e6, 1e6)
    planned = next(p for p in snapshot_of(MODEL, said.items()).peers if p.peer == SUBJECT)
    assert planned.uplink_bytes_per_s == planned.downlink_bytes_per_s == 1e6


def test_slow_takers_and_a_few_liars_cut_no_honest_line_down() -> None:
    random = Random(1)
    slow = {w: random.uniform(1e5, 1e6) for w in ITS_WITNESSES}
    fast = dict.fromkeys(ITS_WITNESSES[:4], 1e7)
    assert of_subject(lines({**slow, **fast}, claimed=1e7)) == FULL_BELIEF
    assert of_subject(lines(dict.fromkeys(ITS_WITNESSES[:2], 1.0), claimed=1e7)) == FULL_BELIEF
    assert of_subject(lines(slow, claimed=None)) == FULL_BELIEF


def test_way_is_as_wide_as_its_narrower_word() -> None:
    a, b = PEERS[:2]
    said = dict(SWARM)
    said[a] = replace(said[a], links=(LinkMeasurement(b, 0.01, 1e9, None),))
    said[b] = replace(said[b], links=(LinkMeasurement(a, 0.01, None, 1e6),))
    assert snapshot_of(MODEL, said.items()).links[a, b].bandwidth_bytes_per_s == 1e6
