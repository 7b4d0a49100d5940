"""Made-up peers of one range of addresses: how many an open swarm's view takes."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from helix_p2p.errors import RecordRejected
from helix_p2p.membership import member as member_module
from helix_p2p.membership.credentials import ALL_ROLES, Role
from helix_p2p.membership.crowd import LEAST, NOWHERE, Crowd, is_public, places_of, ranges_of
from helix_p2p.membership.effects import Effect, MemberLost, SendTo
from helix_p2p.membership.learned import News
from helix_p2p.membership.member import Member
from helix_p2p.membership.messages import MembersReply, PeerGone, Ping
from helix_p2p.membership.own import MemberConfig
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.membership.view import MembershipView
from helix_p2p.types import PeerId

from .makers import MODEL, SWARM, announcement, at, check_plan, identity, peer, record

T = MembershipTiming()
SYBILS = range(100, 100 + 3 * LEAST)


def make(many: int | None = None, *, limited: bool = True) -> MembershipView:
    def admit(*_: object) -> frozenset[Role]:
        return ALL_ROLES

    return MembershipView(
        peer(0), SWARM, MODEL.manifest_hash, admit, T, 10_000, many, limited=limited
    )


def come(view: MembershipView, number: int, address: str, *, direct: bool = True) -> News | None:
    said = replace(announcement(), addresses=(address,))
    try:
        learned = view.learn(record(number, said), at(1), direct=direct)
    except RecordRejected:
        return None
    assert learned is not None
    return learned.news


@pytest.mark.parametrize(
    ("addresses", "ranges"),
    [
        (("/ip4/8.8.8.8/tcp/1", "/ip4/8.8.8.9/tcp/2"), {"8.8.8.0/24"}),
        (("/ip6/2600:1:2:3::4/tcp/1",), {"2600:1:2::/48"}),
        (("/ip4/192.168.1.4/tcp/1", "/ip4/10.0.0.3/tcp/1", "/ip4/127.0.0.1/tcp/1"), set()),
        (("/ip6/fe80::1/tcp/1", "/ip6/::1/tcp/1", "/ip4/100.64.0.1/tcp/1"), set()),
        (("/ip4/8.8.8.8/tcp/1/p2p/x/p2p-circuit/p2p/y",), set()),
        (("", "/", "/ip4", "/ip4/999.1.1.1/tcp/1", "/dns4/example.org/tcp/1", "x/y/z"), set()),
    ],
)
def test_public_ranges_of_addresses(addresses: tuple[str, ...], ranges: set[str]) -> None:
    assert ranges_of(addresses) == ranges


def test_flood_from_one_range_leaves_room_for_everyone_else() -> None:
    view = make()
    joined = [n for n in SYBILS if come(view, n, "/ip4/8.8.8.8/tcp/1") is News.JOINED]
    assert len(joined) == LEAST
    assert come(view, 1, "/ip4/9.9.9.9/tcp/1") is News.JOINED
    view.forget(peer(joined[0]), at(2), heard_only=True)
    assert come(view, SYBILS[-1], "/ip4/8.8.8.8/tcp/1") is News.JOINED


def test_flood_is_as_limited_where_young_records_are_believed() -> None:
    view = make(many=1)
    assert come(view, 1, "/ip4/9.9.9.9/tcp/1") is News.JOINED
    heard_of = [come(view, n, "/ip4/8.8.8.8/tcp/1", direct=False) for n in SYBILS]
    assert heard_of.count(News.JOINED) == LEAST


def test_contacts_of_one_range_are_as_few() -> None:
    view = make()
    for n in SYBILS:
        come(view, n, "/ip4/8.8.8.8/tcp/1", direct=False)
    assert len(view.contacts_to_ping(at(0.0), 10_000)) == LEAST


@pytest.mark.parametrize("address", ["/ip4/192.168.1.7/tcp/1", "/ip4/127.0.0.1/tcp/1"])
def test_homes_and_single_machines_are_not_limited(address: str) -> None:
    view = make()
    assert all(come(view, n, address) is News.JOINED for n in SYBILS)


def test_members_that_an_invite_vouches_for_are_not_limited() -> None:
    view = make(many=16, limited=False)
    assert all(come(view, n, "/ip4/8.8.8.8/tcp/1") is News.JOINED for n in SYBILS)


def test_moving_does_not_lead_around_the_limit() -> None:
    view = make()
    for n in SYBILS[:LEAST]:
        come(view, n, "/ip4/8.8.8.8/tcp/1")
    mover = SYBILS[-1]
    assert come(view, mover, "/ip4/7.7.7.7/tcp/1") is News.JOINED
    moved = replace(announcement(sequence=2), addresses=("/ip4/8.8.8.9/tcp/1",))
    with pytest.raises(RecordRejected, match="range of addresses"):
        view.learn(record(mover, moved), at(2), direct=True)


def test_large_swarm_takes_an_eighth_from_one_range() -> None:
    crowd = Crowd(limited=True)
    for n in range(400):
        crowd.add(peer(n), (f"/ip4/9.{n // 200}.{n % 200}.1/tcp/1",))
    taken = 0
    while crowd.has_room(peer(1000 + taken), ("/ip4/8.8.8.8/tcp/1",)):
        crowd.add(peer(1000 + taken), ("/ip4/8.8.8.8/tcp/1",))
        taken += 1
    assert 50 <= taken <= 60


# ── on the internet ──────────────────────────────────────────────────────────────────────────────

RELAY = "/ip4/8.8.8.8/tcp/1/p2p/x/p2p-circuit/p2p/y"


def on_the_internet(many: int | None = None) -> MembershipView:
    view = make(many)
    view.locate(("/ip4/9.9.9.1/tcp/1",))
    return view


@pytest.mark.parametrize(
    ("addresses", "places", "public"),
    [
        (("/ip4/8.8.8.8/tcp/1", "/ip4/192.168.1.4/tcp/1"), {"8.8.8.0/24"}, True),
        (("/ip4/8.8.8.8/tcp/1", "/ip4/7.7.7.7/tcp/1/p2p/x/p2p-circuit"), {"8.8.8.0/24"}, True),
        ((RELAY, "/ip4/192.168.1.4/tcp/1"), {"relay 8.8.8.0/24"}, True),
        (("/dns4/example.org/tcp/1",), {NOWHERE}, True),
        (("/ip4/192.168.1.4/tcp/1",), {NOWHERE}, False),
        (("/ip4/10.0.0.1/tcp/1/p2p/x/p2p-circuit",), {NOWHERE}, False),
        ((), {NOWHERE}, False),
    ],
)
def test_everyone_has_a_place(addresses: tuple[str, ...], places: set[str], public: bool) -> None:
    assert places_of(addresses) == places
    assert is_public(addresses) is public


@pytest.mark.parametrize("address", ["/ip4/192.168.1.7/tcp/1", "/ip4/127.0.0.1/tcp/1", RELAY, "/x"])
def test_on_the_internet_homes_and_relays_are_ranges_too(address: str) -> None:
    view = on_the_internet()
    joined = [n for n in SYBILS if come(view, n, address) is News.JOINED]
    assert len(joined) == LEAST
    assert come(view, 1, "/ip4/7.7.7.7/tcp/1") is News.JOINED


def test_on_the_internet_so_many_are_believed_untold_and_the_others_called_first() -> None:
    view = on_the_internet(many=1)
    assert come(view, 1, "/ip4/9.9.9.9/tcp/1") is News.JOINED
    told_of = [come(view, n, f"/ip4/7.{n % 256}.1.1/tcp/1", direct=False) for n in SYBILS]
    assert told_of.count(News.JOINED) == LEAST
    assert told_of.count(News.CONTACT) == len(SYBILS) - LEAST
    assert len(view.contacts_to_ping(at(1), 10_000)) == len(SYBILS) - LEAST
    spoke, waiting = peer(SYBILS[0]), SYBILS[-1]
    view.heard(spoke, at(1), unix_s=0.0, rtt_s=None)
    assert come(view, waiting, "/ip4/7.7.7.7/tcp/1", direct=True) is News.JOINED
    [believed] = view.believable(at(1), 1)
    learned = view.learn(believed, at(1), direct=False)
    assert learned is not None
    assert learned.news is News.JOINED, "who was heard left its place to another"


def test_who_was_told_of_is_called_in_turn_and_given_up_in_silence() -> None:
    view = on_the_internet(many=1)
    come(view, 1, "/ip4/9.9.9.9/tcp/1")
    for n in SYBILS[:6]:
        come(view, n, f"/ip4/7.{n % 256}.1.1/tcp/1", direct=False)
    speaks = peer(SYBILS[0])
    called: Counter[PeerId] = Counter()
    for _ in range(12):
        called.update(view.unheard_to_ping(2))
        if called[speaks]:
            view.heard(speaks, at(2), unix_s=0.0, rtt_s=None)
    assert called.pop(speaks) == 1
    assert set(called.values()) == {3}
    assert sorted(view.never_answered()) == sorted(peer(n) for n in SYBILS[1:6])


def test_flood_of_contacts_keeps_nobody_waiting_for_second_calls() -> None:
    view = make()
    for n in SYBILS:
        come(view, n, f"/ip4/7.{n % 256}.1.1/tcp/1", direct=False)
    calls = [view.contacts_to_ping(at(10.0 * turn), 16) for turn in range(len(SYBILS) // 16)]
    assert {p for call in calls for p in call} == {peer(n) for n in SYBILS}


def test_made_up_peer_that_others_keep_telling_of_is_given_up_and_nobody_else_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(member_module, "OPEN_BELIEVES_FROM", 1)
    config = MemberConfig(identity(0), SWARM, 1, check_plan, MODEL, ways_in=("/ip4/9.9.9.1/tcp/1",))
    member = Member(config, Random(1), at(0))
    friend, made_up = peer(1), peer(100)
    said: list[Effect] = []
    for second in range(90):
        own = record(1, announcement(sequence=second + 1, issued_s=second))
        told = announcement(sequence=second + 1, issued_s=second)
        record_of_it = record(100, replace(told, addresses=("/ip4/7.7.7.7/tcp/1",)))
        now = at(second)
        said += member.on_message(friend, Ping(0, b"", own, 1, now.unix_s), now)
        said += member.on_message(friend, MembersReply((record_of_it,)), now)
        said += member.tick(now)
    assert MemberLost(made_up, "lost") in said
    assert made_up not in member.announcements()
    assert friend in member.announcements()
    sent = [effect.message for effect in said if isinstance(effect, SendTo)]
    assert not [message for message in sent if isinstance(message, PeerGone)]
    assert not [message for message in sent if isinstance(message, Ping) and message.gone]
