"""What may stand in the DHT. The first tests are attacks that a stock validator lets through."""

from dataclasses import replace

import pytest

from helix_p2p import codec
from helix_p2p.errors import RecordRejected
from helix_p2p.identity import Signed
from helix_p2p.membership.cells import cell_id
from helix_p2p.membership.credentials import (
    Role,
    certify,
    grant,
    open_swarm_id_of,
    swarm_id_of,
)
from helix_p2p.membership.records import (
    RECORD_LIFE_S,
    SHARDS,
    RecordRules,
    allowed_keys,
    check_record,
    member_key,
    member_keys,
    revocations_key,
    shard_of,
)
from helix_p2p.membership.revocations import revoke
from helix_p2p.types import MOST_CELLS

from .makers import SWARM, UNIX_S, announcement, identity, peer, record

RULES = RecordRules(SWARM)
KEY = member_key(SWARM, peer(1))
RECORD = record(1)
ROOT, INVITE = identity(100), identity(101)


def check(
    value: Signed | bytes = RECORD,
    *,
    key: str = KEY,
    subkey: str | None = peer(1),
    expires_in_s: float = RECORD_LIFE_S,
    rules: RecordRules = RULES,
    now_unix_s: float = UNIX_S,
) -> Signed:
    data = value if isinstance(value, bytes) else codec.encode(value)
    return check_record(key, subkey, data, expires_in_s, rules=rules, now_unix_s=now_unix_s)


def test_owner_writes_its_announcement_into_its_shard() -> None:
    assert check() == RECORD


def test_plain_value_that_would_replace_the_dictionary_is_refused() -> None:
    with pytest.raises(RecordRejected, match="plain value"):
        check(subkey=None)
    with pytest.raises(RecordRejected, match="plain value"):
        check(b"gone", subkey=None)


@pytest.mark.parametrize("expires_in_s", [float("inf"), float("nan"), 1e18, 3600.0, 0.0, -5.0])
def test_endless_or_past_expiry_is_refused(expires_in_s: float) -> None:
    with pytest.raises(RecordRejected, match="expires"):
        check(expires_in_s=expires_in_s)


def test_hundred_thousand_subkeys_cannot_be_made_by_one_key() -> None:
    for number in range(2, 12):
        with pytest.raises(RecordRejected, match="may write there"):
            check(subkey=peer(number))
    with pytest.raises(RecordRejected, match="may write there"):
        check(subkey="anything")


def test_unsigned_forged_and_foreign_values_are_refused() -> None:
    with pytest.raises(RecordRejected, match="not a signed record"):
        check(b"unsigned")
    with pytest.raises(RecordRejected, match="signature"):
        check(replace(RECORD, signature=bytes(64)))
    with pytest.raises(RecordRejected, match="another swarm"):
        check(record(1, swarm=open_swarm_id_of("other")))
    with pytest.raises(RecordRejected, match="does not hold"):
        check(identity(1).sign("plan", SWARM, RECORD.body))
    with pytest.raises(RecordRejected, match="not a signed record"):
        check(replace(RECORD, public_key=b"short"))


def test_oversized_record_is_refused_unread() -> None:
    with pytest.raises(RecordRejected, match="bytes"):
        check(bytes(10 * 1024 + 1))


def test_only_listed_keys_exist_and_each_owner_has_its_shard() -> None:
    with pytest.raises(RecordRejected, match="not one of this swarm's"):
        check(key="helix/1/elsewhere/members/00")
    other = next(key for key in member_keys(SWARM) if key != KEY)
    with pytest.raises(RecordRejected, match="another shard"):
        check(key=other)


def test_old_record_stored_again_does_not_outlive_its_time() -> None:
    later = UNIX_S + 60
    check(expires_in_s=RECORD_LIFE_S - 60, now_unix_s=later)
    with pytest.raises(RecordRejected, match="more life"):
        check(expires_in_s=RECORD_LIFE_S, now_unix_s=later)
    with pytest.raises(RecordRejected, match="another time"):
        check(expires_in_s=10, now_unix_s=UNIX_S + 3600)


def test_replayed_record_never_expires_after_a_newer_one() -> None:
    """A DHT node keeps what expires later, so the newer record wins there too."""
    newer = record(1, announcement(sequence=2, issued_s=30))
    now = UNIX_S + 30
    check(newer, expires_in_s=RECORD_LIFE_S, now_unix_s=now)
    with pytest.raises(RecordRejected):
        check(RECORD, expires_in_s=RECORD_LIFE_S - 28, now_unix_s=now)


def test_wild_issue_times_are_refused() -> None:
    for issued_s in (float("nan"), float("inf"), -1e9, 1e9):
        with pytest.raises(RecordRejected):
            check(record(1, announcement(issued_s=issued_s)))


def test_invite_swarm_takes_admitted_peers_only() -> None:
    swarm = swarm_id_of(ROOT.public_key)
    rules = RecordRules(swarm, ROOT.public_key)
    key = member_key(swarm, peer(1))

    def with_roles(*roles: Role) -> Signed:
        granted = grant(ROOT, INVITE, roles, UNIX_S + 1000)
        chain = certify(INVITE, granted, identity(1).public_key)
        return record(1, announcement(credentials=chain), swarm)

    good = with_roles(Role.PEER)
    check(good, key=key, rules=rules)
    with pytest.raises(RecordRejected, match="not admitted as a peer"):
        check(with_roles(Role.CLIENT), key=key, rules=rules)
    with pytest.raises(RecordRejected, match="no membership certificate"):
        check(record(1, swarm=swarm), key=key, rules=rules)
    far = RecordRules(swarm, ROOT.public_key, life_s=1e6)
    with pytest.raises(RecordRejected, match="expired"):
        check(good, key=key, rules=far, now_unix_s=UNIX_S + 1100)


def test_only_the_root_writes_revocations() -> None:
    swarm = swarm_id_of(ROOT.public_key)
    rules = RecordRules(swarm, ROOT.public_key)
    key = revocations_key(swarm)
    listed = revoke(ROOT, 1, ["ab"])
    check(listed, key=key, subkey=ROOT.peer_id, rules=rules)
    forged = identity(1).sign("revocations", swarm, listed.body)
    with pytest.raises(RecordRejected, match="not signed by the swarm's root"):
        check(forged, key=key, rules=rules)
    with pytest.raises(RecordRejected, match="open swarm"):
        check(forged, key=revocations_key(SWARM))


def test_members_spread_evenly_over_the_shards() -> None:
    counts = [0] * SHARDS
    for number in range(400):
        counts[shard_of(peer(number))] += 1
    assert min(counts) >= 10
    assert max(counts) <= 45
    assert len(set(allowed_keys(SWARM))) == MOST_CELLS * SHARDS + 1


# ── cells ──────────────────────────────────────────────────────────────────────────────────────


def test_cells_member_writes_into_its_cells_shard_and_no_other() -> None:
    third = cell_id(SWARM, 3)
    said = announcement().signed(identity(1), third)
    check(said, key=member_key(third, peer(1)))
    for other in (SWARM, cell_id(SWARM, 2)):
        with pytest.raises(RecordRejected, match="another swarm"):
            check(said, key=member_key(other, peer(1)))
    with pytest.raises(RecordRejected, match="another swarm"):
        check(key=member_key(third, peer(1)))
    with pytest.raises(RecordRejected, match="not one of this swarm's"):
        check(said, key=member_key(f"{SWARM}.{MOST_CELLS}", peer(1)))


def test_certificate_of_the_swarm_holds_in_its_cells() -> None:
    swarm = swarm_id_of(ROOT.public_key)
    third, rules = cell_id(swarm, 3), RecordRules(swarm, ROOT.public_key)
    granted = grant(ROOT, INVITE, [Role.PEER], UNIX_S + 1000)
    shown = certify(INVITE, granted, identity(1).public_key)
    said = announcement(credentials=shown).signed(identity(1), third)
    check(said, key=member_key(third, peer(1)), rules=rules)
    with pytest.raises(RecordRejected, match="certificate"):
        check(
            announcement().signed(identity(1), third), key=member_key(third, peer(1)), rules=rules
        )


def test_revocations_stand_once_for_all_cells() -> None:
    assert revocations_key(cell_id(SWARM, 3)) == revocations_key(SWARM)
