"""Which cell of a swarm a client asks.

It draws one, so that clients spread evenly, and stays with it as long as it serves; where it does
not, or is full, the others are tried in an order of the client's own. After the number of cells has
changed a client stays where it is until the peers have moved, and draws anew.

Always: pure; the cell that served last is tried again before a client finds itself without any.
"""

from random import Random

from helix_p2p.identity import Signed
from helix_p2p.membership.cell_count import CellCount, later_of

TRIED = 4
"""Cells in one tour."""
REDRAW_S = 1200.0
"""After a new number; peers move within a quarter of an hour."""
CROWDED_S = 5.0
"""Many generations meet a full cell at once; the client leaves it once."""


class CellChoice:
    """See the module's description.

    Args:
        random: Draws the order.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._order = [0]
        self._served: int | None = None
        self._redraw_s: float | None = None
        self._left_s: float | None = None
        self.record: Signed | None = None
        self.serial = -1
        self.cells = 1

    def learn(self, record: Signed, said: CellCount, now_s: float) -> None:
        """The root's verified word on how many cells there are."""
        if record == self.record or later_of(record, self.record) != record:
            return
        self.record, self.serial = record, said.serial
        if said.cells != self.cells:
            self.cells = said.cells
            if self._served is None:
                self._order = self._draw()
            else:
                self._redraw_s = now_s + REDRAW_S
                here = self._order[0]
                self._order = [here, *(cell for cell in self._draw() if cell != here)]

    def tour(self, now_s: float) -> list[int]:
        """The cells to try now, the likeliest first."""
        if self._redraw_s is not None and now_s >= self._redraw_s:
            self._redraw_s, self._order, self._served = None, self._draw(), None
        tour = self._order[:TRIED]
        if self._served is not None and self._served not in tour and self._served < self.cells:
            tour.append(self._served)
        return tour

    def serves(self, cell: int) -> None:
        """This cell can take requests: it is the one to ask."""
        self._served = cell
        self._order = [cell, *(other for other in self._there() if other != cell)]

    def none_serves(self) -> None:
        """A tour was in vain: the next one goes on with others."""
        order = self._there()
        self._order = [*order[TRIED:], *order[:TRIED]]

    def crowded(self, now_s: float) -> None:
        """There was no room: the next tour begins elsewhere."""
        if self._left_s is None or now_s - self._left_s >= CROWDED_S:
            self._left_s = now_s
            left, *others = self._order
            self._order = [*others, left] if left < self.cells else others

    def _there(self) -> list[int]:
        """The order without cells that there are no more."""
        return [cell for cell in self._order if cell < self.cells]

    def _draw(self) -> list[int]:
        return self._random.sample(range(self.cells), self.cells)
