"""Who counts as a member, and with which word."""

from dataclasses import replace

import pytest

from helix_p2p.cluster.announcement import PeerState, content_of
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.errors import HandshakeRefused, RecordRejected, SignatureError
from helix_p2p.identity import Signed
from helix_p2p.membership.credentials import ALL_ROLES, Role
from helix_p2p.membership.learned import News
from helix_p2p.membership.plannable import weighty_change
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.membership.view import MembershipView
from helix_p2p.planning.plan import Reference
from helix_p2p.types import LayerRange, PeerId

from .makers import MODEL, SPEED, SWARM, announcement, at, peer, record

T = MembershipTiming()


def make(
    manifest_hash: str = MODEL.manifest_hash, most_members: int = 100, many: int | None = None
) -> MembershipView:
    def admit(credentials: bytes, _peer: PeerId, _now_unix_s: float) -> frozenset[Role]:
        if credentials == b"expired":
            raise HandshakeRefused("expired")
        return ALL_ROLES - {Role.PEER} if credentials == b"client" else ALL_ROLES

    return MembershipView(peer(0), SWARM, manifest_hash, admit, T, most_members, many)


def learn(view: MembershipView, signed: Signed, s: float = 0.0, *, direct: bool = True) -> News:
    learned = view.learn(signed, at(s), direct=direct)
    assert learned is not None
    return learned.news


def test_own_voice_makes_a_member_and_a_lying_record_does_not() -> None:
    view = make()
    assert learn(view, record(1), direct=False) is News.CONTACT
    assert peer(1) not in view
    assert learn(view, record(1)) is News.JOINED
    assert peer(1) in view


def test_sequence_that_is_seen_to_rise_makes_a_member() -> None:
    view = make()
    learn(view, record(1, announcement(sequence=4)), direct=False)
    assert learn(view, record(1, announcement(sequence=4)), direct=False) is News.NOTHING
    assert learn(view, record(1, announcement(sequence=3)), direct=False) is News.NOTHING
    assert learn(view, record(1, announcement(sequence=5)), direct=False) is News.JOINED


def test_older_word_never_replaces_a_newer_one() -> None:
    view = make()
    learn(view, record(1, announcement(incarnation=2, sequence=5)))
    for incarnation, sequence in [(2, 5), (2, 4), (1, 99)]:
        old = announcement(incarnation=incarnation, sequence=sequence, memory_bytes=1)
        assert learn(view, record(1, old)) is News.NOTHING
    entry = view.get(peer(1))
    assert entry is not None
    assert entry.announcement.memory_bytes == 8_000
    newer = announcement(incarnation=2, sequence=6, memory_bytes=1)
    assert learn(view, record(1, newer)) is News.CHANGED


def test_ghosts_last_record_brings_nobody_back() -> None:
    view = make()
    learn(view, record(1, announcement(sequence=5)))
    view.forget(peer(1), at(10), heard_only=True)
    assert learn(view, record(1, announcement(sequence=5)), 11) is News.NOTHING
    later = record(1, announcement(sequence=6, issued_s=9))
    assert learn(view, later, 11, direct=False) is News.CONTACT
    assert learn(view, record(1, announcement(sequence=7)), 12, direct=False) is News.CONTACT
    assert peer(1) not in view
    assert learn(view, record(1, announcement(sequence=8)), 13) is News.JOINED


def test_last_word_of_one_who_leaves_is_final_for_that_run() -> None:
    view = make()
    learn(view, record(1))
    left = announcement(sequence=2, state=PeerState.LEFT)
    assert learn(view, record(1, left), direct=False) is News.LEFT
    assert peer(1) not in view
    assert learn(view, record(1, announcement(sequence=1))) is News.NOTHING
    assert learn(view, record(1, announcement(incarnation=2))) is News.JOINED


def test_farewell_of_keys_that_were_never_here_leaves_no_trace() -> None:
    view = make()
    left = announcement(sequence=2, state=PeerState.LEFT)
    for number in range(1, 6):
        assert learn(view, record(number, left), direct=False) is News.NOTHING
        assert not view.is_gone(peer(number))
    learn(view, record(6), direct=False)
    learn(view, record(6, left), direct=False)
    assert view.contacts_to_ping(at(0.0), 9) == [], "who says so of itself is pinged no more"
    assert view.is_gone(peer(6))


def test_words_in_turn_and_contents_follow_who_is_here_and_what_they_say() -> None:
    view = make()
    for number in (1, 2, 3):
        learn(view, record(number))
    learn(view, record(2, announcement(sequence=9, memory_bytes=7)))
    view.forget(peer(3), at(1.0), heard_only=False)
    entries = [entry for one in view.ring if (entry := view.get(one)) is not None]
    assert view.words_in_turn(0, None, peer(99)) == [entry.word for entry in entries]
    assert view.words_in_turn(0, None, entries[0].peer) == [entries[1].word]
    everyone = [Reference(one.signer, content_of(one, SWARM)) for one in map(record, (1, 2, 3))]
    assert list(view.records_of(everyone).values()) == [record(1)], (
        "2 says something else, 3 is gone"
    )
    said = [Reference(entry.peer, entry.content) for entry in entries]
    assert set(view.records_of(said).values()) == {entry.record for entry in entries}


def test_contact_is_asked_a_few_times_and_given_up() -> None:
    view = make()
    for number in range(1, 6):
        learn(view, record(number), direct=False)
    assert len(view.contacts_to_ping(at(0.0), 3)) == 3
    assert len(view.contacts_to_ping(at(0.1), 3)) == 2, "the first three were just asked"
    asked = [len(view.contacts_to_ping(at(step * (T.ping_s + 1)), 99)) for step in range(1, 6)]
    assert asked == [5, 5, 5, 0, 0]
    view.contacts_to_ping(at(100.0), 99)
    assert learn(view, record(1), direct=False) is News.CONTACT, "a new look-up may try again"


def test_bad_records_are_refused_with_a_reason() -> None:
    view = make()
    with pytest.raises(SignatureError):
        view.learn(record(1, swarm="open-other"), at(0), direct=True)
    with pytest.raises(RecordRejected, match="another model"):
        view.learn(record(1, announcement(manifest_hash="cd" * 32)), at(0), direct=True)
    with pytest.raises(RecordRejected, match="version"):
        view.learn(record(1, replace(announcement(), protocol_version=9)), at(0), direct=True)
    with pytest.raises(HandshakeRefused):
        view.learn(record(1, announcement(credentials=b"expired")), at(0), direct=True)
    with pytest.raises(RecordRejected, match="not admitted"):
        view.learn(record(1, announcement(credentials=b"client")), at(0), direct=True)
    assert len(view) == 0


def test_certificate_that_expired_meanwhile_is_noticed() -> None:
    view = make()
    learn(view, record(1))
    with pytest.raises(HandshakeRefused):
        view.learn(record(1, announcement(sequence=2, credentials=b"expired")), at(1), direct=True)


def test_number_of_members_is_bounded() -> None:
    view = make(most_members=2)
    learn(view, record(1))
    learn(view, record(2))
    with pytest.raises(RecordRejected, match="more than 2"):
        view.learn(record(3), at(0), direct=True)


def test_own_record_is_no_news() -> None:
    assert make().learn(record(0), at(0), direct=False) is None


def test_suspected_member_serves_nothing_and_does_not_plan() -> None:
    view = make()
    serving = announcement(state=PeerState.SERVING, serving=LayerRange(0, 3))
    learn(view, record(1, serving))
    learn(view, record(2, announcement(state=PeerState.LOADING)))
    assert view.serving() == {peer(1): LayerRange(0, 3)}
    assert set(view.candidates()) == {peer(1), peer(2)}
    entry = view.get(peer(1))
    assert entry is not None
    view.link_lost(peer(1), 1.0)
    assert view.serving() == {}
    assert view.candidates() == [peer(2)]


def test_only_willing_well_members_stand_for_election() -> None:
    view = make()
    learn(view, record(1))
    learn(view, record(2, announcement(may_plan=False)))
    learn(view, record(3, announcement(state=PeerState.DRAINING)))
    assert view.candidates() == [peer(1)]


def test_clock_is_compared_with_the_median_of_the_others() -> None:
    view = make()
    for number in (1, 2, 3):
        learn(view, record(number))
    view.heard(peer(1), at(0), unix_s=at(0).unix_s + 300, rtt_s=None)
    assert view.clock_offset_s() is None, "one other clock proves nothing"
    view.heard(peer(2), at(0), unix_s=at(0).unix_s + 1, rtt_s=None)
    view.heard(peer(3), at(0), unix_s=at(0).unix_s - 1, rtt_s=None)
    assert view.clock_offset_s() == pytest.approx(1)
    assert set(view.candidates()) == {peer(2), peer(3)}, "a wrong clock does not plan"


def test_bootstrap_node_without_a_model_is_a_member_without_layers() -> None:
    view = make()
    learn(view, record(1, announcement(manifest_hash="", speed=None, may_plan=False)))
    assert peer(1) in view
    assert view.plannable() == []
    anything = make(manifest_hash="")
    assert learn(anything, record(2, announcement(manifest_hash="ef" * 32))) is News.JOINED


@pytest.mark.parametrize(
    ("change", "weighty"),
    [
        ({"memory_bytes": 8_400}, False),
        ({"memory_bytes": 4_000}, True),
        ({"speed": None}, True),
        ({"speed": SpeedProfile(SPEED.prefill, ((1, 0.0011), (8, 0.0021)))}, False),
        ({"speed": SpeedProfile(SPEED.prefill, ((1, 0.002), (8, 0.004)))}, True),
        ({"uplink_bytes_per_s": 1e6}, True),
        ({"state": PeerState.SERVING, "serving": LayerRange(0, 1)}, False),
        ({"state": PeerState.DRAINING}, True),
        ({"sequence": 9, "epoch": 7}, False),
    ],
)
def test_what_is_worth_a_new_plan(change: dict[str, object], weighty: bool) -> None:
    old = announcement()
    new = replace(old, **change)  # type: ignore[arg-type]
    assert weighty_change(old, new) is weighty


def test_word_of_another_time_is_not_planned_with() -> None:
    view = make()
    for number, issued_s in ((1, 0.0), (2, -4000.0), (3, 55.0)):
        learn(view, record(number, announcement(issued_s=issued_s)))
    view.check(at(1.0), [])
    assert [entry.peer for entry in view.plannable()] == [peer(1)], "or every plan were invalid"


def test_young_record_alone_makes_a_member_only_where_it_is_asked_for() -> None:
    def admit(_credentials: bytes, _peer: PeerId, _now_unix_s: float) -> frozenset[Role]:
        return ALL_ROLES

    for many, believed in ((None, News.CONTACT), (1, News.JOINED)):
        view = MembershipView(peer(0), SWARM, "", admit, T, 100, many)
        learn(view, record(1))
        learned = view.learn(record(2), at(1.0), direct=False)
        assert learned is not None
        assert learned.news is believed
        old = view.learn(record(3, announcement(issued_s=-60.0)), at(1.0), direct=False)
        assert old is not None
        assert old.news is News.CONTACT


def test_a_large_swarm_believes_young_records_of_contacts() -> None:
    view = make(many=2)
    first = [record(number, announcement(issued_s=0.0)) for number in (1, 2, 3, 4)]
    for each in first[2:]:
        view.learn(each, at(0.0), direct=False)
    assert view.believable(at(1.0), 9) == [], "two strangers' records are no swarm"
    for each in first[:2]:
        view.learn(each, at(1.0), direct=True)
    for each in view.believable(at(2.0), 9):
        view.learn(each, at(2.0), direct=False)
    assert len(view) == 4
    assert view.believable(at(3.0), 9) == []


def test_lost_member_of_a_large_swarm_comes_back_with_a_new_run_and_not_with_the_old() -> None:
    view = make(many=2)
    for number in (1, 2, 3):
        learn(view, record(number))
    view.forget(peer(3), at(1.0), heard_only=True)
    same_run = record(3, announcement(sequence=9, issued_s=1.5))
    assert learn(view, same_run, 2.0, direct=False) is News.CONTACT, "its own voice is asked for"
    new_run = record(3, announcement(incarnation=2, issued_s=2.5))
    assert learn(view, new_run, 3.0, direct=False) is News.JOINED
    view.forget(peer(3), at(4.0), heard_only=True)
    old_word = record(3, announcement(incarnation=3, issued_s=-60.0))
    assert learn(view, old_word, 5.0, direct=False) is News.CONTACT, "a word of a minute ago"


def test_that_a_member_loads_is_no_news_to_pass_on() -> None:
    view = make()
    learn(view, record(1))
    loads = view.learn(
        record(1, announcement(sequence=2, state=PeerState.LOADING)), at(1.0), direct=False
    )
    assert loads is not None
    assert (loads.news, loads.lasting) == (News.CHANGED, False)
    serves = announcement(sequence=3, state=PeerState.SERVING, serving=LayerRange(0, 2))
    learned = view.learn(record(1, serves), at(2.0), direct=False)
    assert learned is not None
    assert (learned.news, learned.lasting) == (News.CHANGED, True)
    assert view.serving() == {peer(1): LayerRange(0, 2)}


def test_newcomer_that_is_about_to_be_believed_is_not_pinged_and_a_lost_one_is() -> None:
    view = make(many=2)
    young = [record(number, announcement(issued_s=0.0)) for number in (3, 4)]
    for each in young:
        view.learn(each, at(0.0), direct=False)
    learn(view, record(1))
    learn(view, record(2))
    assert view.contacts_to_ping(at(1.0), 9) == []
    learn(view, young[0], 1.0, direct=False)
    view.forget(peer(3), at(2.0), heard_only=True)
    again = record(3, announcement(sequence=2, issued_s=2.5))
    assert learn(view, again, 3.0, direct=False) is News.CONTACT
    assert view.contacts_to_ping(at(3.0), 9) == [peer(3)], "only its own voice brings it back"
