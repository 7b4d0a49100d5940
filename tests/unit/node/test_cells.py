"""What a node knows of its swarm's cells, from the DHT and from its disk."""

from pathlib import Path

import pytest

from helix_p2p import codec
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cell_count import CELLS_KIND, CellCount, write_cells
from helix_p2p.membership.credentials import open_swarm_id_of, swarm_id_of
from helix_p2p.membership.records import RecordRules, cells_key, check_record
from helix_p2p.net.dht import MemoryDirectory
from helix_p2p.node.cells import CellsKnown
from helix_p2p.node.joining import Belonging
from helix_p2p.node.state import StateDir

ROOT, STRANGER = Identity(bytes([1] * 32)), Identity(bytes([2] * 32))
SWARM = swarm_id_of(ROOT.public_key)
CLOSED = Belonging(SWARM, (), "", ROOT.public_key, b"")
OPEN = Belonging(open_swarm_id_of("m"), (), "", None, b"")


def said(serial: int, cells: int) -> Signed:
    return write_cells(ROOT, CellCount(serial, cells))


@pytest.fixture
def directory() -> MemoryDirectory:
    rules = RecordRules(SWARM, ROOT.public_key)
    return MemoryDirectory(
        lambda key, subkey, value, expires_in_s: check_record(
            key, subkey, value, expires_in_s, rules=rules, now_unix_s=0.0
        )
    )


async def put(directory: MemoryDirectory, record: Signed) -> None:
    await directory.publish(cells_key(SWARM), record.signer, codec.encode(record), 90.0)


async def test_swarm_of_which_nothing_is_said_has_one_cell(
    directory: MemoryDirectory, tmp_path: Path
) -> None:
    with StateDir(tmp_path / "state") as state:
        known = CellsKnown(CLOSED, state, directory)
        await known.begin()
        assert (known.count, known.serial, known.record) == (1, -1, None)


async def test_roots_word_is_read_and_outlives_a_restart_without_the_dht(
    directory: MemoryDirectory, tmp_path: Path
) -> None:
    await put(directory, said(7, 3))
    with StateDir(tmp_path / "state") as state:
        known = CellsKnown(CLOSED, state, directory)
        await known.begin()
        assert (known.count, known.serial) == (3, 7)
        directory.reachable = False
        again = CellsKnown(CLOSED, state, directory)
        await again.begin()
        assert again.record == said(7, 3)
        assert again.count == 3


async def test_older_and_foreign_words_change_nothing(
    directory: MemoryDirectory, tmp_path: Path
) -> None:
    with StateDir(tmp_path / "state") as state:
        known = CellsKnown(CLOSED, state, directory)
        assert await known.take(said(7, 3))
        assert not await known.take(said(6, 9))
        assert not await known.take(said(7, 3))
        assert not await known.take(write_cells(STRANGER, CellCount(8, 9)))
        forged = STRANGER.sign(CELLS_KIND, SWARM, codec.encode(CellCount(8, 9)))
        assert not await known.take(forged)
        assert not await known.take(said(8, 0))
        assert known.count == 3


async def test_of_two_words_of_one_serial_all_keep_the_same(
    directory: MemoryDirectory, tmp_path: Path
) -> None:
    counts = set()
    for number, words in enumerate([(2, 3), (3, 2)]):
        with StateDir(tmp_path / str(number)) as state:
            known = CellsKnown(CLOSED, state, directory)
            for cells in words:
                await known.take(said(7, cells))
            counts.add(known.count)
    assert len(counts) == 1


async def test_who_knows_writes_it_for_the_others(
    directory: MemoryDirectory, tmp_path: Path
) -> None:
    with StateDir(tmp_path / "one") as one, StateDir(tmp_path / "other") as other:
        knows, asks = CellsKnown(CLOSED, one, directory), CellsKnown(CLOSED, other, directory)
        await knows.write()  # nothing to say yet
        await knows.take(said(7, 3))
        await knows.write()
        await asks.begin()
        assert asks.count == 3


async def test_damaged_file_is_asked_for_again(directory: MemoryDirectory, tmp_path: Path) -> None:
    await put(directory, said(7, 3))
    with StateDir(tmp_path / "state") as state:
        (tmp_path / "state" / "cells").write_bytes(b"nonsense")
        known = CellsKnown(CLOSED, state, directory)
        assert known.count == 1
        await known.begin()
        assert known.count == 3


async def test_open_swarm_has_one_cell_whatever_is_said(
    directory: MemoryDirectory, tmp_path: Path
) -> None:
    with StateDir(tmp_path / "state") as state:
        known = CellsKnown(OPEN, state, directory)
        assert not await known.take(said(7, 3))
        await known.begin()
        await known.run(lambda: 1)
        assert known.count == 1
