"""What may stand in the swarm's DHT, and under which key.

The DHT is only the meeting place: members find each other there, all else they tell one another.
Members' announcements are spread over shards so that thousands fit; each shard is a dictionary
whose subkey is the owner's peer id and whose value is the owner's signed announcement.

A DHT node keeps, of two values, the one that expires later, and cannot know sequences. So a
record's life is tied to when it was issued: it ends `RECORD_LIFE_S` after `issued_unix_s`, which is
signed. What is issued later then always expires later, and an old record that someone stores again
neither outlives its time nor replaces a newer one.

All cells of a swarm share one DHT; each has its own shards, and the root's list stands once.

Always: a record may be written only by its owner, only under these keys, at most
`RECORD_LIMIT_BYTES` long, and never for longer than its life. Anything else (a plain value, another
subkey, an endless expiry) is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from helix_p2p import codec
from helix_p2p.cluster.announcement import Announcement, open_announcement
from helix_p2p.errors import HelixError, RecordRejected
from helix_p2p.identity import Signed
from helix_p2p.membership.cells import cell_id, swarm_of
from helix_p2p.membership.credentials import Role, verify_credentials
from helix_p2p.membership.revocations import open_revocations
from helix_p2p.types import MOST_CELLS, PeerId

SHARDS = 16
RECORD_LIMIT_BYTES = 10 * 1024
RECORD_LIFE_S = 90.0
CLOCK_TOLERANCE_S = 60.0
"""A member's clock may differ this much from a DHT node's; more, and its records are refused."""
ROUNDING_S = 1.0
"""Between signing an announcement and asking the DHT to store it."""
_KEY_PREFIX = "helix/1"


@dataclass(frozen=True, slots=True)
class RecordRules:
    """What a DHT node needs to judge records.

    Attributes:
        swarm: Ours, or one of our cells; records of other swarms are refused.
        root_public_key: None in an open swarm.
        revoked: Peer ids, and ids of invites, that no longer count.
        revocations_serial: Of the list they are from; older lists are refused.
        life_s: Of an announcement, from its issue.
    """

    swarm: str
    root_public_key: bytes | None = None
    revoked: frozenset[str] = frozenset()
    revocations_serial: int = -1
    life_s: float = RECORD_LIFE_S


def shard_of(peer: PeerId) -> int:
    """Where a peer's announcement stands; peers spread evenly."""
    return codec.sha256(b"helix-p2p/shard\x00" + peer.encode())[0] % SHARDS


def members_key(swarm: str, shard: int) -> str:
    """The DHT key of one shard of a cell's members; in a swarm of one cell, of the swarm's."""
    if not 0 <= shard < SHARDS:
        raise ValueError(f"there is no shard {shard}")
    return f"{_KEY_PREFIX}/{swarm}/members/{shard:02d}"


def member_key(swarm: str, peer: PeerId) -> str:
    """The DHT key under which a peer announces itself."""
    return members_key(swarm, shard_of(peer))


def revocations_key(swarm: str) -> str:
    """The DHT key of the root's list of revocations; its subkey is the root's peer id."""
    return f"{_KEY_PREFIX}/{swarm_of(swarm)}/revocations"


def member_keys(swarm: str) -> tuple[str, ...]:
    """All shards of one cell."""
    return tuple(members_key(swarm, shard) for shard in range(SHARDS))


def allowed_keys(swarm: str) -> tuple[str, ...]:
    """Every key that may exist; a DHT that knows keys by hash compares hashes of these."""
    return (*_cells_by_key(swarm_of(swarm)), revocations_key(swarm))


@lru_cache(maxsize=4)
def _cells_by_key(swarm: str) -> Mapping[str, str]:
    """By the key of each shard of each cell, the cell's id."""
    cells = (cell_id(swarm, cell) for cell in range(MOST_CELLS))
    return {key: cell for cell in cells for key in member_keys(cell)}


def check_record(
    key: str,
    subkey: str | None,
    value: bytes,
    expires_in_s: float,
    *,
    rules: RecordRules,
    now_unix_s: float,
) -> Signed:
    """Whether a record may be stored, or be believed when it was read.

    Args:
        key: As text, see `allowed_keys`.
        subkey: Of the dictionary; None for a plain value.
        value: Canonical bytes of a `Signed`.
        expires_in_s: What the writer asks for; negative when it is over.
        rules: Ours.
        now_unix_s: Wall clock.

    Returns:
        The record, verified.

    Raises:
        RecordRejected: It may not stand there; the message says why.
    """
    if subkey is None:
        raise RecordRejected("a plain value would replace every member's record")
    cell = _cells_by_key(swarm_of(rules.swarm)).get(key)
    if cell is None and key != revocations_key(rules.swarm):
        raise RecordRejected(f"the key {key[:60]!r} is not one of this swarm's")
    if len(value) > RECORD_LIMIT_BYTES:
        raise RecordRejected(f"a record of {len(value)} bytes, at most {RECORD_LIMIT_BYTES} fit")
    if not 0 < expires_in_s <= rules.life_s + CLOCK_TOLERANCE_S:
        raise RecordRejected(f"it expires in {expires_in_s:g} s, allowed are {rules.life_s:g} s")
    try:
        record = codec.decode(value, Signed, limit_bytes=RECORD_LIMIT_BYTES)
        owner = record.signer
    except HelixError as error:
        raise RecordRejected(f"not a signed record: {error}") from error
    if subkey != owner:
        raise RecordRejected(f"only {subkey[:60]!r} may write there, this is from {owner}")
    if cell is None:
        _check_revocations(record, rules)
    else:
        _check_announcement(key, cell, record, expires_in_s, rules, now_unix_s)
    return record


def life_left_s(announcement: Announcement, now_unix_s: float, life_s: float) -> float:
    """How long an announcement may still stand in the DHT."""
    return announcement.issued_unix_s + life_s - now_unix_s


def _check_announcement(
    key: str,
    cell: str,
    record: Signed,
    expires_in_s: float,
    rules: RecordRules,
    now_unix_s: float,
) -> None:
    if key != member_key(cell, record.signer):
        raise RecordRejected("this owner's record belongs into another shard")
    try:
        said = open_announcement(record, cell)
        roles = verify_credentials(
            said.credentials,
            peer=record.signer,
            swarm=rules.swarm,
            root_public_key=rules.root_public_key,
            now_unix_s=now_unix_s,
            revoked=rules.revoked,
        )
    except RecordRejected:
        raise
    except HelixError as error:
        raise RecordRejected(f"this announcement does not hold: {error}") from error
    if Role.PEER not in roles:
        raise RecordRejected("its owner is not admitted as a peer")
    if not abs(said.issued_unix_s - now_unix_s) <= rules.life_s + CLOCK_TOLERANCE_S:
        raise RecordRejected("it was issued at another time than this clock shows")
    # Both are absolute times of the writer's clock, so ours plays no part in the comparison.
    if expires_in_s > life_left_s(said, now_unix_s, rules.life_s) + ROUNDING_S:
        raise RecordRejected("it asks for more life than an announcement of its age has left")


def _check_revocations(record: Signed, rules: RecordRules) -> None:
    if rules.root_public_key is None:
        raise RecordRejected("an open swarm has no revocations")
    try:
        said = open_revocations(record, rules.swarm, rules.root_public_key)
    except HelixError as error:
        raise RecordRejected(f"this list of revocations does not hold: {error}") from error
    if said.serial < rules.revocations_serial:
        raise RecordRejected("a newer list of revocations is known here")
