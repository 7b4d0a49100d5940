"""Small changes to a layout, for searches whose judge is dearer than coverage.

Always: a changed layout differs in one or two peers; whether it still covers every layer, and with
what, is the judge's business.
"""

from random import Random

import numpy as np

from helix_p2p.planning.capacity import Capacities, Ints
from helix_p2p.planning.coverage import Layout, coverage
from helix_p2p.planning.recreate import choices_of


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
        return Layout(starts, ends)

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
