"""Whom the operator put out: one list, signed by the root, that everyone keeps and passes on.

A list names peers and invites. A new one replaces the old as a whole, so that what was revoked by
mistake can be taken back; the serial says which is newer, and between two lists of one serial (two
bootstrap nodes that share a root key) the bytes decide, so that all members end with the same one.

Always: a list that is not the root's changes nothing, and no list replaces a higher one.
"""

from collections.abc import Collection
from dataclasses import dataclass

from helix_p2p import codec
from helix_p2p.errors import CapacityError, HandshakeRefused
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cells import swarm_of
from helix_p2p.membership.credentials import swarm_id_of
from helix_p2p.types import PeerId

REVOCATIONS_KIND = "revocations"
REVOCATIONS_LIMIT_BYTES = 8 * 1024
"""About 150 peers or 450 invites; a record in the DHT has 10 KiB."""

RevocationsOrder = tuple[int, bytes]
"""Serial, then the list's bytes."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """Invites and peers that no longer count.

    Attributes:
        serial: The list with the highest one holds.
        invite_ids: Everyone who came in by these is out.
        peers: These are out, whatever they came in by.
    """

    serial: int
    invite_ids: tuple[str, ...]
    peers: tuple[PeerId, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """All in one; a peer id never looks like an invite's."""
        return frozenset((*self.invite_ids, *self.peers))


def revoke(
    root: Identity, serial: int, invite_ids: Collection[str], peers: Collection[PeerId] = ()
) -> Signed:
    """The root's list; it replaces every list with a lower serial.

    Raises:
        CapacityError: More than a list has room for.
    """
    body = codec.encode(
        Revocations(serial, tuple(sorted(set(invite_ids))), tuple(sorted(set(peers))))
    )
    if len(body) > REVOCATIONS_LIMIT_BYTES:
        raise CapacityError(
            f"the list of revocations would have {len(body)} bytes, "
            f"at most {REVOCATIONS_LIMIT_BYTES} fit",
            hint="take back what has expired anyway, with --undo",
        )
    return root.sign(REVOCATIONS_KIND, swarm_id_of(root.public_key), body)


def open_revocations(record: Signed, swarm: str, root_public_key: bytes) -> Revocations:
    """Verify and read a list; it holds in all cells of a swarm.

    Raises:
        SignatureError: The signature does not hold, or is for another swarm.
        HandshakeRefused: Signed by someone other than the root.
        DecodeError: Not such a list.
    """
    record.verify(kind=REVOCATIONS_KIND, swarm=swarm_of(swarm))
    if record.public_key != root_public_key:
        raise HandshakeRefused("the list of revocations is not signed by the swarm's root")
    return _read(record)


def order_of(said: Revocations, record: Signed) -> RevocationsOrder:
    """Which of two lists holds: the higher."""
    return (said.serial, record.body)


def newer_of(one: Signed, other: Signed | None) -> Signed:
    """Which of two lists of one swarm holds; both were verified when they came.

    Raises:
        DecodeError: One of them is no list.
    """
    if other is None or other.swarm != one.swarm:
        return one
    both = {record.body: record for record in (one, other)}
    return max(both.values(), key=lambda record: order_of(_read(record), record))


def _read(record: Signed) -> Revocations:
    return codec.decode(record.body, Revocations, limit_bytes=REVOCATIONS_LIMIT_BYTES)
