"""The root's word on how many cells there are."""

import pytest

from helix_p2p import codec
from helix_p2p.errors import DecodeError, HandshakeRefused, RecordRejected, SignatureError
from helix_p2p.membership.cell_count import (
    CELLS_KIND,
    LATEST_SERIAL,
    CellCount,
    later_of,
    open_cells,
    write_cells,
)
from helix_p2p.membership.credentials import swarm_id_of
from helix_p2p.types import MOST_CELLS

from .makers import identity

ROOT, OTHER = identity(100), identity(101)
SWARM = swarm_id_of(ROOT.public_key)


def test_word_of_the_root_is_read() -> None:
    said = CellCount(7, 3)
    assert open_cells(write_cells(ROOT, said), SWARM, ROOT.public_key) == said


def test_word_of_another_is_refused() -> None:
    with pytest.raises(SignatureError):
        open_cells(write_cells(OTHER, CellCount(7, 3)), SWARM, ROOT.public_key)
    forged = OTHER.sign(CELLS_KIND, SWARM, codec.encode(CellCount(7, 3)))
    with pytest.raises(HandshakeRefused, match="not signed by the swarm's root"):
        open_cells(forged, SWARM, ROOT.public_key)


@pytest.mark.parametrize("cells", [0, -1, MOST_CELLS + 1, 2**40])
def test_number_that_no_swarm_has_is_refused(cells: int) -> None:
    with pytest.raises(RecordRejected, match=f"not {cells}"):
        open_cells(write_cells(ROOT, CellCount(7, cells)), SWARM, ROOT.public_key)


@pytest.mark.parametrize("serial", [-1, LATEST_SERIAL + 1])
def test_serial_after_which_none_could_come_is_refused(serial: int) -> None:
    with pytest.raises(RecordRejected, match="serial"):
        open_cells(write_cells(ROOT, CellCount(serial, 3)), SWARM, ROOT.public_key)


def test_what_is_no_word_is_refused() -> None:
    with pytest.raises(DecodeError):
        open_cells(ROOT.sign(CELLS_KIND, SWARM, b"nonsense"), SWARM, ROOT.public_key)


def test_later_word_holds_and_of_two_of_one_serial_everyone_keeps_the_same() -> None:
    early, late = write_cells(ROOT, CellCount(6, 9)), write_cells(ROOT, CellCount(7, 3))
    assert later_of(early, late) == later_of(late, early) == late
    assert later_of(early, None) == early
    twin = write_cells(ROOT, CellCount(7, 4))
    assert later_of(twin, late) == later_of(late, twin)
