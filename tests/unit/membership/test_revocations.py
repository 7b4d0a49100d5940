"""Whom the operator put out: the list, and what a member does when it hears of one."""

from collections.abc import Collection
from dataclasses import replace
from random import Random

import pytest

from helix_p2p import codec
from helix_p2p.errors import CapacityError, HandshakeRefused, RecordRejected, SignatureError
from helix_p2p.identity import Signed
from helix_p2p.membership import effects as fx
from helix_p2p.membership import messages as m
from helix_p2p.membership.credentials import (
    ALL_ROLES,
    CLOCK_LEEWAY_S,
    Role,
    certify,
    grant,
    invite_id_of,
    swarm_id_of,
)
from helix_p2p.membership.exclusion import RECHECK_S
from helix_p2p.membership.member import Member
from helix_p2p.membership.outbox import Effects
from helix_p2p.membership.own import MemberConfig
from helix_p2p.membership.records import RecordRules, check_record, member_key, revocations_key
from helix_p2p.membership.revocations import newer_of, open_revocations, revoke
from helix_p2p.planning.plan import Plan
from helix_p2p.planning.signed import open_plan, sign_plan
from helix_p2p.types import PeerId

from .makers import (
    EPOCH,
    MODEL,
    UNIX_S,
    announcement,
    at,
    check_plan,
    identity,
    peer,
    plan,
    record,
)

ROOT, INVITE, STRANGER = identity(100), identity(101), identity(102)
SWARM = swarm_id_of(ROOT.public_key)
LIFE_S = 1000.0


def chain(number: int, roles: Collection[Role] = ALL_ROLES, life_s: float = LIFE_S) -> bytes:
    granted = grant(ROOT, INVITE, roles, UNIX_S + life_s)
    return certify(INVITE, granted, identity(number).public_key)


def word(number: int, sequence: int = 1, s: float = 0.0, **how: object) -> Signed:
    said = announcement(sequence=sequence, issued_s=s, credentials=chain(number, **how))  # type: ignore[arg-type]
    return record(number, said, SWARM)


def make(number: int = 0, **changes: object) -> Member:
    config = MemberConfig(
        identity(number),
        SWARM,
        1,
        check_plan,
        MODEL,
        root_public_key=ROOT.public_key,
        credentials=chain(number),
    )
    return Member(replace(config, **changes), Random(number), at(0))  # type: ignore[arg-type]


def with_members(*numbers: int, **changes: object) -> Member:
    member = make(**changes)
    for number in numbers:
        member.on_message(peer(number), m.Ping(0, b"", word(number)), at(0))
    member.tick(at(0.1))
    return member


def lists(*peers: int, serial: int = 1) -> Signed:
    return revoke(ROOT, serial, [], [peer(number) for number in peers])


def of(kind: type, effects: Effects) -> list:  # type: ignore[type-arg]
    return [effect for effect in effects if isinstance(effect, kind)]


def pushed(effects: Effects) -> dict[PeerId, Signed]:
    return {
        sent.peer: sent.message.record
        for sent in of(fx.SendTo, effects)
        if isinstance(sent.message, m.PushRevocations)
    }


def plan_of(planner: int, epoch: int = EPOCH, **how: object) -> Signed:
    body = replace(plan(planner, epoch).plan, announcements=(word(planner, **how),))
    return sign_plan(body, identity(planner), SWARM)


# ── the list ────────────────────────────────────────────────────────────────────────────────────


def test_only_the_root_revokes() -> None:
    said = open_revocations(revoke(ROOT, 3, ["b", "a", "a"], [peer(1)]), SWARM, ROOT.public_key)
    assert (said.serial, said.invite_ids, said.peers) == (3, ("a", "b"), (peer(1),))
    forged = STRANGER.sign("revocations", SWARM, codec.encode(said))
    with pytest.raises(HandshakeRefused):
        open_revocations(forged, SWARM, ROOT.public_key)
    with pytest.raises(SignatureError):
        open_revocations(revoke(STRANGER, 3, ["a"]), SWARM, ROOT.public_key)


def test_of_two_lists_the_higher_serial_holds_and_ties_end_alike_everywhere() -> None:
    old, new, other = lists(1), lists(2, serial=2), lists(3, serial=2)
    assert newer_of(old, new) == newer_of(new, old) == new
    assert newer_of(new, other) == newer_of(other, new)
    assert newer_of(new, None) == new


def test_list_that_would_not_fit_into_a_record_is_refused_with_a_way_out() -> None:
    with pytest.raises(CapacityError, match="--undo"):
        revoke(ROOT, 1, [f"{n:016x}" for n in range(1000)])
    assert revoke(ROOT, 1, [f"{n:016x}" for n in range(400)])


def test_dht_takes_no_older_list_than_is_known() -> None:
    key, rules = revocations_key(SWARM), RecordRules(SWARM, ROOT.public_key, revocations_serial=5)

    def check(serial: int) -> None:
        value = codec.encode(lists(1, serial=serial))
        check_record(key, ROOT.peer_id, value, 60.0, rules=rules, now_unix_s=UNIX_S)

    check(5)
    check(6)
    with pytest.raises(RecordRejected, match="newer list"):
        check(4)


# ── members ─────────────────────────────────────────────────────────────────────────────────────


def test_revoked_peer_is_dropped_at_once_kept_on_disk_told_on_and_never_let_back() -> None:
    member = with_members(1, 2, 3)
    effects = member.on_message(peer(1), m.PushRevocations(lists(2)), at(1))
    assert of(fx.MemberLost, effects) == [fx.MemberLost(peer(2), "banned")]
    assert of(fx.PersistRevocations, effects) == [fx.PersistRevocations(lists(2))]
    assert set(pushed(effects)) == {peer(1), peer(2), peer(3)}, "it is told why"
    published = of(fx.PublishRecord, effects)
    assert [(p.key, p.record) for p in published] == [(revocations_key(SWARM), lists(2))]

    assert not member.on_message(peer(2), m.Ping(0, b"", word(2, 9, 2.0)), at(2))
    member.on_message(peer(1), m.MembersReply((word(2, 10, 2.0),)), at(2))
    assert {entry.peer for entry in member.view} == {peer(1), peer(3)}


def test_older_list_never_replaces_a_newer_one_not_even_over_a_restart() -> None:
    member = with_members(1, 2, revocations=lists(2, serial=7))
    assert peer(2) not in member.view, "known from the disk"
    assert not pushed(member.on_message(peer(1), m.PushRevocations(lists(serial=6)), at(1)))
    assert member.trust.revoked == {peer(2)}
    member.on_message(peer(1), m.PushRevocations(lists(serial=8)), at(2))
    assert not member.trust.revoked, "a newer one takes it back"
    member.on_message(peer(2), m.Ping(0, b"", word(2, 2, 3.0)), at(3))
    assert peer(2) in member.view


def test_who_missed_the_news_is_told_when_it_pings() -> None:
    member = with_members(1, revocations=lists(9, serial=4))
    behind = member.on_message(peer(1), m.Ping(0, b"", word(1, 2), revocations=3), at(1))
    assert pushed(behind) == {peer(1): lists(9, serial=4)}
    level = member.on_message(peer(1), m.Pong(0, b"", word(1, 3), revocations=4), at(1))
    assert not pushed(level)
    (pong,) = [s.message for s in of(fx.SendTo, behind) if isinstance(s.message, m.Pong)]
    assert pong.revocations == 4, "and says which list it holds itself"


def test_list_stays_in_the_dht_without_everyone_writing_it() -> None:
    def writes(others: int) -> int:
        member, effects = with_members(*range(1, others + 1), revocations=lists(99)), []
        for s in range(4, 600, 4):
            for number in range(1, others + 1):
                member.on_message(peer(number), m.Ping(0, b"", None), at(float(s)))
            effects += member.tick(at(float(s)))
        assert len(member.view) == others
        return sum(p.key == revocations_key(SWARM) for p in of(fx.PublishRecord, tuple(effects)))

    assert writes(2) == 18, "every period in a small swarm"
    assert 0 < writes(30) < 12


def test_forged_list_changes_nothing() -> None:
    member = with_members(1, 2)
    forged = STRANGER.sign("revocations", SWARM, lists(2).body)
    effects = member.on_message(peer(1), m.PushRevocations(forged), at(1))
    assert [type(effect) for effect in effects] == [fx.MessageRefused]
    assert len(member.view) == 2


def test_plan_of_a_revoked_planner_is_refused_whoever_brings_it() -> None:
    member = with_members(1, 2)
    member.on_message(peer(1), m.PushRevocations(lists(2)), at(1))
    effects = member.on_message(peer(1), m.PushPlan(plan_of(2)), at(2))
    assert not of(fx.PersistHighWater, effects)
    assert of(fx.PlanRefused, effects)
    assert pushed(effects) == {peer(1): lists(2)}, "who follows it is told why not to"


def test_plan_of_a_planner_whose_invite_was_revoked_is_refused() -> None:
    member = with_members(1, 2)
    by_invite = revoke(ROOT, 1, [invite_id_of(INVITE.public_key)])
    fresh = make(credentials=certify(STRANGER, _other_grant(), identity(0).public_key))
    fresh.on_revocations(by_invite, at(1))
    (refused,) = of(fx.PlanRefused, fresh.on_message(peer(9), m.PushPlan(plan_of(2)), at(2)))
    assert "revoked" in str(refused.error)
    assert of(fx.PersistHighWater, member.on_message(peer(1), m.PushPlan(plan_of(2)), at(2)))


def _other_grant() -> Signed:
    return grant(ROOT, STRANGER, ALL_ROLES, UNIX_S + LIFE_S)


def test_node_that_is_put_out_itself_says_so_once_and_plans_no_more() -> None:
    member = with_members(1)
    effects = member.on_message(peer(1), m.PushRevocations(lists(0)), at(1))
    (expelled,) = of(fx.Expelled, effects)
    assert "revoked" in str(expelled.error)
    later = [e for s in range(2, 120) for e in member.tick(at(float(s)))]
    assert not of(fx.Expelled, tuple(later))
    assert not of(fx.BecamePlanner, tuple(later))


# ── roles and expiry ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("roles", [{Role.CLIENT}, {Role.CLIENT, Role.PLANNER}])
def test_certificate_without_the_peers_role_announces_nothing(roles: set[Role]) -> None:
    member = make()
    member.on_message(peer(1), m.Ping(0, b"", word(1, roles=roles)), at(0))
    assert peer(1) not in member.view
    value, rules = codec.encode(word(1, roles=roles)), RecordRules(SWARM, ROOT.public_key)
    with pytest.raises(RecordRejected, match="not admitted as a peer"):
        check_record(
            member_key(SWARM, peer(1)), peer(1), value, 60.0, rules=rules, now_unix_s=UNIX_S
        )


@pytest.mark.parametrize("roles", [{Role.CLIENT}, {Role.PEER}, {Role.PEER, Role.CLIENT}])
def test_certificate_without_the_planners_role_plans_nothing(roles: set[Role]) -> None:
    member = with_members(1)
    (refused,) = of(
        fx.PlanRefused, member.on_message(peer(1), m.PushPlan(plan_of(2, roles=roles)), at(1))
    )
    assert refused.error.rule == "planner"
    assert not member.plan
    own = make(credentials=chain(0, roles=roles))
    heard = [e for s in range(60) for e in own.tick(at(float(s)))]
    assert not of(fx.BecamePlanner, tuple(heard)), "nor does an honest one try"


def test_plan_without_its_planners_announcement_is_refused() -> None:
    signed = open_plan(plan_of(2), SWARM)
    bare: Plan = replace(signed.plan, announcements=())
    record_ = sign_plan(bare, identity(2), SWARM)
    (refused,) = of(fx.PlanRefused, make().on_message(peer(1), m.PushPlan(record_), at(1)))
    assert "announcement is missing" in str(refused.error)


def test_member_whose_certificate_expires_is_cut_off_while_it_runs() -> None:
    member = make()
    member.on_message(peer(1), m.Ping(0, b"", word(1, life_s=30.0)), at(0))
    ends_s, lost = 30.0 + CLOCK_LEEWAY_S, []
    for step in range(1, 400):
        s = step * 0.5
        member.on_message(peer(1), m.Ping(0, b"", None), at(s))  # alive all the while
        lost += [(s, e) for e in of(fx.MemberLost, member.tick(at(s)))]
    ((when_s, loss),) = lost
    assert loss == fx.MemberLost(peer(1), "banned")
    assert ends_s <= when_s <= ends_s + RECHECK_S + 0.5
