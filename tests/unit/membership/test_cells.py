"""Cells: who belongs where, and how many there are."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_p2p.membership.cells import (
    CELL_FULL,
    CELL_GOOD,
    cell_id,
    cell_of,
    cells_for,
    swarm_of,
)
from helix_p2p.membership.credentials import open_swarm_id_of, swarm_id_of
from helix_p2p.sim.mind import identity_of
from helix_p2p.types import MOST_CELLS

SWARM = swarm_id_of(bytes(32))
PEERS = [identity_of(number).peer_id for number in range(1000)]


def test_first_cell_bears_the_swarms_own_id() -> None:
    assert cell_id(SWARM, 0) == SWARM


@pytest.mark.parametrize("swarm", [SWARM, open_swarm_id_of("m")])
def test_cells_have_ids_of_their_own_that_name_their_swarm(swarm: str) -> None:
    ids = [cell_id(swarm, cell) for cell in range(MOST_CELLS)]
    assert len(set(ids)) == MOST_CELLS
    assert {swarm_of(each) for each in ids} == {swarm}


@pytest.mark.parametrize("cell", [-1, MOST_CELLS])
def test_there_are_no_other_cells(cell: int) -> None:
    with pytest.raises(ValueError, match="no cell"):
        cell_id(SWARM, cell)


def test_peers_spread_evenly() -> None:
    counts = Counter(cell_of(peer, SWARM, 8) for peer in PEERS)
    assert set(counts) == set(range(8))
    assert all(90 <= count <= 160 for count in counts.values())


@pytest.mark.parametrize("cells", [1, 2, 7, 15])
def test_one_cell_more_takes_its_share_and_moves_nobody_else(cells: int) -> None:
    before = {peer: cell_of(peer, SWARM, cells) for peer in PEERS}
    after = {peer: cell_of(peer, SWARM, cells + 1) for peer in PEERS}
    moved = [peer for peer in PEERS if before[peer] != after[peer]]
    assert {after[peer] for peer in moved} == {cells}
    assert len(moved) == pytest.approx(len(PEERS) / (cells + 1), rel=0.35)


@given(st.integers(0, 300_000), st.integers(1, MOST_CELLS))
def test_a_number_of_cells_that_was_chosen_stays(peers: int, cells: int) -> None:
    chosen = cells_for(peers, cells)
    assert 1 <= chosen <= MOST_CELLS
    assert cells_for(peers, chosen) == chosen


def test_small_swarms_have_one_cell_and_full_ones_get_more() -> None:
    assert cells_for(0, 1) == cells_for(CELL_FULL, 1) == 1
    assert cells_for(1000, 1) == 3
    assert cells_for(10_000, 3) == -(-10_000 // CELL_GOOD)
    assert cells_for(100, 3) == 1
