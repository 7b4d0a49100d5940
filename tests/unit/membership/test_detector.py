"""When a member is suspected, probed, reported, evicted; and when it is not."""

from helix_p2p.membership.detector import Condition, Detector, Verdict
from helix_p2p.membership.timing import MembershipTiming

from .makers import peer

T = MembershipTiming()


def check(detector: Detector, now_s: float, witnesses: int = 3) -> Verdict:
    return detector.check(now_s, monitored=True, witnesses=witnesses)


def steady(seconds: float = 60.0, period_s: float = 2.0) -> tuple[Detector, float]:
    """A link on which something was heard every period."""
    detector = Detector(T, 0.0)
    now_s = 0.0
    while now_s < seconds:
        now_s += period_s
        assert check(detector, now_s) is Verdict.NOTHING
        detector.heard(now_s)
    return detector, now_s


def test_member_that_is_heard_stays_alive() -> None:
    detector, now_s = steady()
    assert detector.condition is Condition.ALIVE
    assert check(detector, now_s + T.silence_s) is Verdict.NOTHING


def test_silence_leads_to_a_probe_then_a_report_then_eviction_alone() -> None:
    detector, now_s = steady()
    silent_s = now_s + T.silence_s + 0.1
    assert check(detector, silent_s) is Verdict.PROBE
    assert check(detector, silent_s + T.probe_s / 2) is Verdict.NOTHING
    failed_s = silent_s + T.probe_s
    assert check(detector, failed_s) is Verdict.REPORT
    assert check(detector, failed_s + T.evict_s / 2) is Verdict.PROBE
    assert check(detector, failed_s + T.evict_s) is Verdict.EVICT


def test_second_witness_evicts_at_once() -> None:
    detector, now_s = steady()
    detector.link_lost(now_s)
    assert check(detector, now_s) is Verdict.PROBE
    detector.unreachable(now_s + 0.1)
    assert check(detector, now_s + 0.1) is Verdict.REPORT
    assert check(detector, now_s + 0.2) is Verdict.NOTHING
    detector.reported(peer(9), now_s + 0.3)
    assert check(detector, now_s + 0.3) is Verdict.EVICT


def test_word_of_others_alone_evicts_nobody() -> None:
    detector, now_s = steady()
    for number in range(20):
        detector.reported(peer(number), now_s)
    assert check(detector, now_s) is Verdict.PROBE
    assert detector.condition is Condition.ALIVE
    detector.heard(now_s + 0.2)
    for step in range(30):
        assert check(detector, now_s + 0.2 + step * 0.25) is Verdict.NOTHING


def test_report_makes_silence_suspicious_sooner() -> None:
    detector, now_s = steady()
    detector.reported(peer(1), now_s)
    assert check(detector, now_s) is Verdict.PROBE
    assert check(detector, now_s + T.ping_s) is Verdict.NOTHING
    assert check(detector, now_s + 1.25 * T.ping_s + 0.1) is Verdict.PROBE
    assert check(detector, now_s + 1.25 * T.ping_s + T.probe_s + 0.1) is Verdict.REPORT


def test_member_that_others_vouch_for_stays_though_out_of_our_reach() -> None:
    detector, now_s = steady()
    detector.link_lost(now_s)
    assert check(detector, now_s) is Verdict.PROBE
    detector.unreachable(now_s)
    assert check(detector, now_s) is Verdict.REPORT
    for step in range(1, 200):
        s = now_s + step * 0.5
        if step % 8 == 0:
            detector.rose(s - 0.1)
        assert check(detector, s) is not Verdict.EVICT
        assert detector.present or s < now_s + 4
    assert detector.condition is Condition.FAILED


def test_nobody_to_ask_means_nobody_is_waited_for() -> None:
    detector, now_s = steady()
    detector.unreachable(now_s)
    assert check(detector, now_s, witnesses=0) is Verdict.PROBE
    detector.unreachable(now_s + 0.1)
    assert check(detector, now_s + 0.1, witnesses=0) is Verdict.REPORT
    assert check(detector, now_s + 0.2, witnesses=0) is Verdict.NOTHING
    assert check(detector, now_s + 0.1 + T.probe_s, witnesses=0) is Verdict.EVICT


def test_one_message_that_was_not_delivered_may_be_the_old_streams_fault() -> None:
    detector, now_s = steady()
    detector.unreachable(now_s)
    assert detector.condition is Condition.SUSPECT
    assert check(detector, now_s) is Verdict.PROBE
    detector.heard(now_s + 0.1)
    assert check(detector, now_s + 0.2) is Verdict.NOTHING


def test_broken_link_to_a_living_member_is_forgotten_when_it_answers() -> None:
    detector, now_s = steady()
    detector.link_lost(now_s)
    assert check(detector, now_s) is Verdict.PROBE
    detector.heard(now_s + 0.5)
    assert check(detector, now_s + T.probe_s + 1) is Verdict.NOTHING
    assert detector.condition is Condition.ALIVE


def test_irregular_link_is_given_more_time_up_to_a_limit() -> None:
    calm, _ = steady(period_s=2.0)
    wild = Detector(T, 0.0)
    now_s = 0.0
    for step in range(40):
        check(wild, now_s)
        now_s += 1.0 if step % 2 else 7.0
        wild.heard(now_s)
    assert calm.silence_limit_s == T.silence_s
    assert T.silence_s < wild.silence_limit_s <= T.silence_most_s


def test_member_that_nobody_here_watches_may_be_silent_for_long() -> None:
    detector = Detector(T, 0.0)
    assert detector.check(T.stale_s, monitored=False, witnesses=3) is Verdict.NOTHING
    detector.rose(50.0)
    assert detector.check(T.stale_s + 40, monitored=False, witnesses=3) is Verdict.NOTHING
    assert detector.check(T.stale_s + 51, monitored=False, witnesses=3) is Verdict.PROBE


def test_watching_begins_with_patience() -> None:
    detector = Detector(T, 0.0)
    assert detector.check(80.0, monitored=False, witnesses=3) is Verdict.NOTHING
    assert check(detector, 81.0) is Verdict.NOTHING
    assert check(detector, 81.0 + T.silence_most_s + 1) is Verdict.PROBE


def test_our_own_standstill_is_not_the_members_silence() -> None:
    detector, now_s = steady()
    detector.forgive(300.0)
    assert check(detector, now_s + 300.0 + 1) is Verdict.NOTHING
