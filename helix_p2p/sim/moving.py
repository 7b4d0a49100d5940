"""Simulated peers move when their swarm is parted anew, as `node.peer` and `helix-peer` do.

Each that belongs elsewhere waits for a moment by chance, drains, leaves and starts again in the
other cell, with the weights on its disk and what that remembers of the other cell's plans.

Always: whoever is down meanwhile starts in the right cell; a peer is in one cell at a time.
"""

from random import Random
from typing import Protocol

from helix_p2p.membership.cells import cell_of
from helix_p2p.sim.cell import Cell
from helix_p2p.sim.clock import VirtualTime
from helix_p2p.types import PeerId

DRAIN_S = 60.0
LOOK_S = 0.5
START_S = 5.0
"""From one process's end to the next one's joining."""


class Movable(Protocol):
    """What is asked of a swarm."""

    def drain(self, name: PeerId) -> None:
        """It takes nothing new."""

    def drained(self, name: PeerId) -> bool:
        """Whether nothing runs there."""

    def end(self, name: PeerId) -> None:
        """It says good-bye and is gone; nothing happens to one that is down."""

    def settle(self, name: PeerId, cell: Cell) -> None:
        """It belongs into this cell from now on, and is up."""


class Moves:
    """See the module's description.

    Args:
        swarm: Carries out the steps.
        time: Virtual time.
        rng: Draws the moments.
    """

    def __init__(self, swarm: Movable, time: VirtualTime, rng: Random) -> None:
        self._swarm = swarm
        self._time = time
        self._rng = rng

    def begin(
        self,
        peers: dict[PeerId, Cell],
        cells: tuple[Cell, ...],
        swarm_id: str,
        within_s: float,
    ) -> int:
        """Let all move that belong elsewhere.

        Args:
            peers: Where each is.
            cells: Those that there are from now on.
            swarm_id: The whole swarm's.
            within_s: By when each begins.

        Returns:
            How many have to move.
        """
        count = 0
        for name, cell in sorted(peers.items()):
            wanted = cells[cell_of(name, swarm_id, len(cells))]
            if wanted is not cell:
                count += 1
                self._time.after(self._rng.uniform(0, within_s), self._drain, name, wanted)
        return count

    def _drain(self, name: PeerId, cell: Cell) -> None:
        self._swarm.drain(name)
        self._leave(name, cell, self._time.now_s + DRAIN_S)

    def _leave(self, name: PeerId, cell: Cell, deadline_s: float) -> None:
        if self._swarm.drained(name) or self._time.now_s >= deadline_s:
            self._swarm.end(name)
            self._time.after(START_S, self._swarm.settle, name, cell)
        else:
            self._time.after(LOOK_S, self._leave, name, cell, deadline_s)
