"""Annealing on what a placement is estimated to serve.

The covers that other searches find are best by flow. What is served also depends on how long a
cycle is and on how many requests memory keeps in flight, and the placements that serve most look
different: ranges are shortened to leave room for KV cache, fast peers stand in few long stages,
regions are crossed once. Such a placement is many small changes away, and some of them cost before
they gain.

Always: deterministic for a seed and a number of steps; the best layout only improves.
Source: Metropolis acceptance with geometric cooling (Kirkpatrick et al. 1983).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from helix_p2p.planning.capacity import Capacities
from helix_p2p.planning.coverage import Layout, value_of
from helix_p2p.planning.moves import Moves

HEAT = 0.05
"""Accepted worsening at the start, as a share of the score; it falls to a hundredth. Tried on the
paper's clusters: 0.02 stays near its start, 0.1 finds the same later."""

Score = Callable[[Layout], float]


@dataclass
class ServiceSearch:
    """A running annealing; `step` advances it.

    Args:
        capacities: The table.
        start: A layout that covers every layer.
        bound: No layout carries more.
        score: What a layout is worth; minus infinity where it is not legal.
        random: Its chance.
    """

    capacities: Capacities
    start: Layout
    bound: int
    score: Score
    random: Random
    best: Layout = field(init=False)
    value: float = field(init=False)

    def __post_init__(self) -> None:
        self._moves = Moves(self.capacities, self.bound, self.random)
        self._now = self.best = self.start
        self._value = self.value = self.score(self.start)

    def step(self, done: float) -> None:
        """Try one change.

        Args:
            done: Share of the search that is over, for cooling.
        """
        proposed = self._moves.reshaped(self._now)
        if value_of(self.capacities, proposed) <= 0:
            return
        value = self.score(proposed)
        heat = HEAT * 0.01**done * abs(self._value)
        if value >= self._value + heat * math.log(max(self.random.random(), 1e-300)):
            self._now, self._value = proposed, value
            if value > self.value:
                self.best, self.value = proposed, value
