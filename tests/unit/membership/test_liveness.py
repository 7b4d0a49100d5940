"""Whose detector is run when, and who may be routed over."""

from helix_p2p.cluster.announcement import PeerState
from helix_p2p.membership.credentials import ALL_ROLES
from helix_p2p.membership.detector import Detector, Verdict
from helix_p2p.membership.entry import MemberEntry
from helix_p2p.membership.liveness import CHECKED_AT_ONCE, Liveness
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.types import LayerRange, PeerId

from .makers import announcement, record

T = MembershipTiming()
SAID = announcement(state=PeerState.SERVING, serving=LayerRange(0, 3))
RECORD = record(1, SAID)


def members(count: int) -> dict[PeerId, MemberEntry]:
    names = [PeerId(f"p{number:04}") for number in range(count)]
    return {
        p: MemberEntry(p, RECORD, SAID, ALL_ROLES, Detector(T, 0.0), 0.0, 0.0, b"", b"")
        for p in names
    }


def test_who_falls_silent_is_not_routed_over_until_it_is_heard() -> None:
    (entry,) = everyone = members(1).values()
    held = {entry.peer: entry for entry in everyone}
    liveness = Liveness()
    liveness.note(entry)
    assert liveness.serving == {entry.peer: LayerRange(0, 3)}
    before = liveness.version
    late_s = T.silence_most_s + 1
    liveness.check(held, list(held), 0.0, [entry.peer])
    assert liveness.check(held, list(held), late_s, [entry.peer]) == [(entry.peer, Verdict.PROBE)]
    assert liveness.serving == {}
    assert liveness.version > before
    entry.detector.heard(late_s)
    liveness.note(entry)
    assert liveness.serving == {entry.peer: LayerRange(0, 3)}


def test_in_a_large_swarm_all_are_looked_at_in_turn() -> None:
    everyone = members(10 * CHECKED_AT_ONCE)
    ring, liveness = sorted(everyone), Liveness()
    stale_s = 10 * T.stale_s
    first = liveness.check(everyone, ring, stale_s, [])
    assert 0 < len(first) < len(ring) / 10
    probed = {peer for peer, _ in first}
    for _ in ring:
        probed |= {peer for peer, _ in liveness.check(everyone, ring, stale_s, [])}
    assert probed == set(ring)


def test_who_is_dropped_is_neither_looked_at_nor_routed_over() -> None:
    everyone = members(2)
    ring, liveness = sorted(everyone), Liveness()
    for entry in everyone.values():
        entry.detector.link_lost(1.0)
        liveness.note(entry)
    gone = ring.pop()
    del everyone[gone]
    liveness.drop(gone)
    assert [peer for peer, _ in liveness.check(everyone, ring, 1.0, [])] == ring
