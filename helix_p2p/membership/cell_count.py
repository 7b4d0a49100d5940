"""In how many cells a swarm lives: the root's word, which everyone keeps and hands on when asked.

Always: a count that is not the root's changes nothing, and none replaces one of a higher serial.
"""

from dataclasses import dataclass

from helix_p2p import codec
from helix_p2p.errors import HandshakeRefused, RecordRejected
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.credentials import swarm_id_of
from helix_p2p.types import MOST_CELLS

CELLS_KIND = "cells"
CELLS_LIMIT_BYTES = 64
LATEST_SERIAL = 2**53


@dataclass(frozen=True, slots=True)
class CellCount:
    """How many cells there are.

    Attributes:
        serial: The word with the highest one holds.
        cells: From 1 to `MOST_CELLS`.
    """

    serial: int
    cells: int


def write_cells(root: Identity, said: CellCount) -> Signed:
    """The root's word; it replaces every word with a lower serial."""
    return root.sign(CELLS_KIND, swarm_id_of(root.public_key), codec.encode(said))


def open_cells(record: Signed, swarm: str, root_public_key: bytes) -> CellCount:
    """Verify and read it.

    Raises:
        SignatureError: The signature does not hold, or is for another swarm.
        HandshakeRefused: Signed by someone other than the root.
        DecodeError: Not such a word.
        RecordRejected: No swarm has so many cells.
    """
    record.verify(kind=CELLS_KIND, swarm=swarm)
    if record.public_key != root_public_key:
        raise HandshakeRefused("the number of cells is not signed by the swarm's root")
    said = _read(record)
    if not 0 <= said.serial <= LATEST_SERIAL:
        raise RecordRejected("the number of cells has a serial that no clock gives")
    if not 1 <= said.cells <= MOST_CELLS:
        raise RecordRejected(f"a swarm has 1 to {MOST_CELLS} cells, not {said.cells}")
    return said


def later_of(one: Signed, other: Signed | None) -> Signed:
    """Which of two words of one swarm holds; both were verified when they came.

    Between two of one serial (two bootstrap nodes that share a root key) the bytes decide.

    Raises:
        DecodeError: One of them is none.
    """
    if other is None or other.swarm != one.swarm:
        return one
    both = {record.body: record for record in (one, other)}
    return max(both.values(), key=lambda record: (_read(record).serial, record.body))


def _read(record: Signed) -> CellCount:
    return codec.decode(record.body, CellCount, limit_bytes=CELLS_LIMIT_BYTES)
