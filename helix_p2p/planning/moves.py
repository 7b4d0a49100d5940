"""Small changes to a layout, for searches whose judge is dearer than coverage.

Always: a changed layout differs in one or two peers, and every range fits into its peer; whether it
still covers every layer, and with what, is the judge's business.
"""

from random import Random

import numpy as np

from helix_p2p.planning.capacity import Capacities, Ints
from helix_p2p.planning.coverage import Layout, coverage
from helix_p2p.planning.recreate import choices_of
from helix_p2p.types import LayerRange


class Moves:
    """A source of changes.

    Args:
        capacities: The table.
        bound: No layout carries more.
        random: Its chance.
    """

    def __init__(self, capacities: Capacities, bound: int, random: Random) -> None:
        self._capacities, self._bound, self._random = capacities, bound, random
        self._choices = [choices_of(capacities, row) for row in range(len(capacities.peers))]
        self._usable = [row for row, c in enumerate(self._choices) if c.starts.size]

    def changed(self, layout: Layout) -> Layout:
        """Another layout, one or two ranges away."""
        starts, ends = layout.starts.copy(), layout.ends.copy()
        kind = self._random.random()
        row = self._usable[self._random.randrange(len(self._usable))]
        if kind < 0.25:
            self._exchange(row, starts, ends)
        elif kind < 0.5:
            self._nudge(row, starts, ends)
        elif kind < 0.75:
            # Where coverage is weakest once this peer is out.
            carried = self._capacities.of_layout(starts, ends)
            short = coverage(self._capacities, layout).copy()
            short[starts[row] : ends[row]] -= carried[row]
            target = int(self._bound * self._random.uniform(0.5, 1.0))
            gains = self._choices[row].gains(
                np.maximum(0, target - short), np.ones(self._capacities.layers)
            )
            good = np.flatnonzero(gains >= 0.9 * gains.max())
            self._place(row, int(good[self._random.randrange(good.size)]), starts, ends)
        else:
            pick = self._random.randrange(self._choices[row].starts.size)
            self._place(row, pick, starts, ends)
        return fitted(self._capacities, Layout(starts, ends))

    def reshaped(self, layout: Layout) -> Layout:
        """As `changed`; besides, borders move with all the ranges that meet there.

        Where every layer has one holder no range can change alone, and a search by flow, which
        spreads peers out, hardly meets such placements; one by service does.
        """
        kind = self._random.random()
        if kind >= 0.5:
            return self.changed(layout)
        starts, ends = layout.starts.copy(), layout.ends.copy()
        if kind < 0.35:
            self._shift_border(starts, ends)
        elif kind < 0.4:
            row = self._usable[self._random.randrange(len(self._usable))]
            starts[row] = ends[row] = 0
        else:
            row, other = (self._usable[self._random.randrange(len(self._usable))] for _ in range(2))
            starts[row], ends[row] = starts[other], ends[other]
        return fitted(self._capacities, Layout(starts, ends))

    def _shift_border(self, starts: Ints, ends: Ints) -> None:
        """Move a layer where ranges end, and all ranges that end or begin there; or just some."""
        inner = np.flatnonzero((ends > starts) & (ends < self._capacities.layers))
        if not inner.size:
            return
        border = int(ends[inner[self._random.randrange(inner.size)]])
        by = self._random.choice((-3, -2, -1, -1, 1, 1, 2, 3))
        to = max(1, min(self._capacities.layers - 1, border + by))
        moving = self._random.random() < 0.7
        for row in np.flatnonzero((ends == border) & (starts < to)):
            if moving or self._random.random() < 0.5:
                ends[row] = to
        for row in np.flatnonzero((starts == border) & (ends > to)):
            if moving or self._random.random() < 0.5:
                starts[row] = to

    def _place(self, row: int, pick: int, starts: Ints, ends: Ints) -> None:
        starts[row], ends[row] = self._choices[row].starts[pick], self._choices[row].ends[pick]

    def _exchange(self, row: int, starts: Ints, ends: Ints) -> None:
        """Two peers swap ranges where both fit."""
        other = self._usable[self._random.randrange(len(self._usable))]
        starts[row], starts[other] = starts[other], starts[row]
        ends[row], ends[other] = ends[other], ends[row]
        fits = self._capacities.of_layout(starts, ends)
        for one in (row, other):
            if ends[one] > starts[one] and fits[one] == 0:
                longest = int(self._capacities.longest[one].max())
                ends[one] = min(int(ends[one]), int(starts[one]) + longest)

    def _nudge(self, row: int, starts: Ints, ends: Ints) -> None:
        """Move both borders a little, or copy a neighbour's border."""
        layers = self._capacities.layers
        if self._random.random() < 0.5:
            by = self._random.choice((-2, -1, 1, 2))
            at = int(starts[row]) + by
            until = int(ends[row]) + self._random.choice((by, by, 0, 1, -1))
        else:
            other = self._usable[self._random.randrange(len(self._usable))]
            length = int(ends[row] - starts[row])
            at = int(self._random.choice((starts[other], ends[other], ends[other] - length)))
            until = at + length
        at = max(0, min(at, layers - 1))
        starts[row], ends[row] = at, max(at + 1, min(until, layers))


def fitted(capacities: Capacities, layout: Layout) -> Layout:
    """Shortened where a range is too long for its peer; what does not fit at all is dropped.

    What ends with the model loses its first layers, everything else its last ones.
    """
    starts, ends = layout.starts.copy(), layout.ends.copy()
    too_long = (ends > starts) & (capacities.of_layout(starts, ends) == 0)
    for row in np.flatnonzero(too_long).tolist():
        low, high = int(starts[row]), int(ends[row])
        last = high == capacities.layers and low > 0
        while low < high and capacities.of(row, LayerRange(low, high)) == 0:
            low, high = (low + 1, high) if last else (low, high - 1)
        starts[row], ends[row] = (low, high) if low < high else (0, 0)
    return Layout(starts, ends)
