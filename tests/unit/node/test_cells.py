"""What a node knows of its swarm's cells, from others and from its disk."""

from pathlib import Path

import pytest

from helix_p2p import codec
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cell_count import CELLS_KIND, CellCount, write_cells
from helix_p2p.membership.credentials import open_swarm_id_of, swarm_id_of
from helix_p2p.node.cells import CellsKnown
from helix_p2p.node.joining import Belonging
from helix_p2p.node.state import StateDir

ROOT, STRANGER = Identity(bytes([1] * 32)), Identity(bytes([2] * 32))
SWARM = swarm_id_of(ROOT.public_key)
CLOSED = Belonging(SWARM, (), "", ROOT.public_key, b"")
OPEN = Belonging(open_swarm_id_of("m"), (), "", None, b"")


def said(serial: int, cells: int) -> Signed:
    return write_cells(ROOT, CellCount(serial, cells))


def test_swarm_of_which_nothing_is_said_has_one_cell(tmp_path: Path) -> None:
    with StateDir(tmp_path / "state") as state:
        known = CellsKnown(CLOSED, state)
        assert (known.count, known.serial, known.record) == (1, -1, None)


async def test_roots_word_outlives_a_restart(tmp_path: Path) -> None:
    with StateDir(tmp_path / "state") as state:
        known = CellsKnown(CLOSED, state)
        assert await known.take(said(7, 3))
        assert (known.count, known.serial) == (3, 7)
        again = CellsKnown(CLOSED, state)
        assert (again.count, again.record) == (3, said(7, 3))


async def test_older_and_foreign_words_change_nothing(tmp_path: Path) -> None:
    with StateDir(tmp_path / "state") as state:
        known = CellsKnown(CLOSED, state)
        assert await known.take(said(7, 3))
        assert not await known.take(said(6, 9))
        assert not await known.take(said(7, 3))
        assert not await known.take(write_cells(STRANGER, CellCount(8, 9)))
        forged = STRANGER.sign(CELLS_KIND, SWARM, codec.encode(CellCount(8, 9)))
        assert not await known.take(forged)
        assert not await known.take(said(8, 0))
        assert known.count == CellsKnown(CLOSED, state).count == 3


def test_word_that_comes_late_to_the_disk_replaces_no_later_one(tmp_path: Path) -> None:
    with StateDir(tmp_path / "state") as state:
        state.keep_cells(said(9, 4))
        state.keep_cells(said(1, 2))
        assert state.cells() == said(9, 4)


async def test_what_the_operator_leaves_on_disk_is_taken_up(tmp_path: Path) -> None:
    with StateDir(tmp_path / "state") as state:
        known = CellsKnown(CLOSED, state)
        state.keep_cells(said(7, 3))
        known.read_disk()
        assert known.count == 3


async def test_damaged_file_is_said_and_heard_of_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with StateDir(tmp_path / "state") as state:
        (tmp_path / "state" / "cells").write_bytes(b"nonsense")
        known = CellsKnown(CLOSED, state)
        assert known.count == 1
        assert caplog.records
        known.read_disk()
        assert len(caplog.records) == 1  # a running node looks every second
        await known.take(said(7, 3))
        assert known.count == CellsKnown(CLOSED, state).count == 3


async def test_open_swarm_has_one_cell_whatever_is_said(tmp_path: Path) -> None:
    with StateDir(tmp_path / "state") as state:
        known = CellsKnown(OPEN, state)
        assert not await known.take(said(7, 3))
        assert known.count == 1
