"""Cells: a swarm too large for one plan lives as several, each with its own members and planner.

A cell is a swarm to everything that counts its members: announcements, leases, plans and keys of
the DHT bear the cell's id, so nothing of one cell means anything in another. What the root says
(certificates, its charter) is the whole swarm's. The first cell's id is the swarm's own, so a swarm
of one cell is what it was before there were cells.

Who belongs where is a peer's own matter, by rendezvous hashing (Thaler & Ravishankar, IEEE/ACM ToN
1998): of n cells each gets an equal share by chance, and one cell more takes 1/(n+1) of the peers,
from all others alike; nobody else moves. Why cells and not views of a part: docs/adr/0029.

Always: pure functions; equal arguments give equal answers on every machine.
"""

from math import ceil

from helix_p2p import codec
from helix_p2p.types import MOST_CELLS, PeerId

CELL_FULL = 512
"""From here on what a member does for others costs more than what a larger plan gains."""
CELL_GOOD = 384
CELL_SPARSE = 96
"""With fewer on average cells are given up; far from `CELL_FULL`, so that a swarm that breathes
does not move."""
_BEFORE_CELL = "."


def cell_id(swarm: str, cell: int) -> str:
    """What a cell's records bear.

    Args:
        swarm: The whole swarm's id.
        cell: From 0 to `MOST_CELLS` - 1.
    """
    if not 0 <= cell < MOST_CELLS:
        raise ValueError(f"there is no cell {cell}")
    return f"{swarm}{_BEFORE_CELL}{cell}" if cell else swarm


def swarm_of(cell: str) -> str:
    """The swarm that a cell is of, by the cell's id."""
    return cell.partition(_BEFORE_CELL)[0]


def cell_of(peer: PeerId, swarm: str, cells: int) -> int:
    """Where a peer belongs while the swarm has so many cells."""
    if cells < 2:
        return 0
    name = f"{swarm}/{peer}/".encode()
    return max(range(cells), key=lambda cell: codec.sha256(name + str(cell).encode()))


def cells_for(peers: int, cells: int) -> int:
    """How many cells so many peers are to have, that have `cells` now."""
    if CELL_SPARSE * cells <= peers <= CELL_FULL * cells:
        return cells
    return min(MOST_CELLS, max(1, ceil(peers / CELL_GOOD)))
