"""Who is known without being a member."""

from dataclasses import replace

from helix_p2p.membership.outsiders import CONTACT_TRIES, LOST_KEPT_S, Outsiders
from helix_p2p.membership.timing import MembershipTiming

from .makers import announcement, peer, record

T = MembershipTiming()
SAID = replace(announcement(sequence=5), addresses=("/ip4/10.0.0.1/tcp/1",))


def test_contact_is_pinged_once_a_period_and_given_up_after_some() -> None:
    outsiders = Outsiders(T, 10)
    outsiders.meet(peer(1), record(1, SAID), SAID)
    assert outsiders.addresses_of(peer(1)) == SAID.addresses
    for period in range(CONTACT_TRIES):
        assert outsiders.contacts_to_ping(period * T.ping_s, 9) == [peer(1)]
        assert outsiders.contacts_to_ping((period + 0.9) * T.ping_s, 9) == []
    assert outsiders.contacts_to_ping(CONTACT_TRIES * T.ping_s, 9) == []
    assert outsiders.seen(peer(1)) is None


def test_no_more_contacts_than_there_is_room_for() -> None:
    outsiders = Outsiders(T, 2)
    for number in (1, 2, 3):
        outsiders.meet(peer(number), record(number, SAID), SAID)
    assert outsiders.contacts_to_ping(0.0, 9) == [peer(1), peer(2)]


def test_silent_members_are_called_in_turn_and_those_who_left_are_not() -> None:
    outsiders = Outsiders(T, 10)
    for number in (1, 2, 3):
        outsiders.bury(peer(number), SAID, 0.0, heard_only=number != 2)
    called = [outsiders.lost_to_ping(1) for _ in range(3)]
    assert called == [[peer(1)], [peer(3)], [peer(1)]]


def test_the_gone_are_forgotten_after_a_while_and_when_they_join() -> None:
    outsiders = Outsiders(T, 10)
    outsiders.bury(peer(1), SAID, 0.0, heard_only=True)
    outsiders.bury(peer(2), SAID, LOST_KEPT_S, heard_only=False)
    outsiders.expire(LOST_KEPT_S + 1)
    assert outsiders.last_word(peer(1)) is None
    assert outsiders.last_word(peer(2)) == SAID.order
    outsiders.joined(peer(2))
    assert outsiders.last_word(peer(2)) is None


def test_no_more_of_the_gone_than_there_is_room_for_and_the_silent_stay_longest() -> None:
    outsiders = Outsiders(T, 3)
    outsiders.bury(peer(1), SAID, 0.0, heard_only=True)
    for number in range(2, 9):
        outsiders.bury(peer(number), SAID, float(number), heard_only=False)
    known = [number for number in range(1, 9) if outsiders.last_word(peer(number)) is not None]
    assert known == [1, 7, 8]


def test_only_young_records_of_contacts_are_believed() -> None:
    outsiders = Outsiders(T, 10)
    for number, issued_s in ((1, 0.0), (2, -100.0), (3, 10.0)):
        said = announcement(issued_s=issued_s)
        outsiders.meet(peer(number), record(number, said), said)
    now_s = SAID.issued_unix_s
    assert {r.signer for r in outsiders.young(now_s, 45.0, 9)} == {peer(1), peer(3)}
    assert len(outsiders.young(now_s, 45.0, 1)) == 1
