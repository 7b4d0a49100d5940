"""Finalists before a judge: compared first, then the best one is changed while the judge agrees.

The judge (a replay, as a rule) is a hundred times as dear as the estimate. So the estimate filters:
what it thinks much worse than the best is not shown. Verdicts are kept less what a migration costs,
like the estimate's scores.

Always: the best finalist is legal and only ever improves by the judge's word; nothing is judged
twice; deterministic where the judge is and nothing is stopped by the clock.
"""

from collections.abc import Callable, Iterable
from random import Random

from helix_p2p.planning.appraisal import Appraiser, Finalist
from helix_p2p.planning.coverage import value_of
from helix_p2p.planning.moves import Moves
from helix_p2p.planning.plan import EdgeFlow

COMPARED = 4
"""Finalists that are shown; a replay takes 0.3 s each at 24 peers."""

WORTH_SHOWING = 0.97
"""Of the best one's estimated score. The estimate tells neighbours apart within a few percent."""

Verdict = Callable[[Finalist], float]
Report = Callable[[str, int, int, int], None]

Likeness = tuple[EdgeFlow | tuple[int, int, int], ...]


class Judging:
    """One run of the judge.

    Args:
        appraiser: Of layouts.
        verdict: The judge's, on a finalist.
        over: Whether the time is.
    """

    def __init__(self, appraiser: Appraiser, verdict: Verdict, over: Callable[[], bool]) -> None:
        self._appraiser, self._verdict, self._over = appraiser, verdict, over
        self._best: Finalist | None = None
        self._value = float("-inf")
        self._shown: set[Likeness] = set()

    @property
    def best(self) -> Finalist:
        """The judge's choice."""
        assert self._best is not None, "finalists are compared first"
        return self._best

    def compare(self, ranked: Iterable[Finalist]) -> None:
        """Show the first few that differ, in the order given."""
        for one in ranked:
            if len(self._shown) == COMPARED or (self._shown and self._over()):
                return
            self._offer(one)

    def improve(self, moves: int, bound: int, random: Random, report: Report) -> None:
        """Try so many changes of the best, one after another."""
        changes = Moves(self._appraiser.capacities, bound, random)
        capacities, until = self._appraiser.capacities, len(self._shown) + moves
        for step in range(100 * moves):
            if len(self._shown) >= until or self._over():
                return
            layout = changes.reshaped(self.best.layout)
            if value_of(capacities, layout) <= 0:
                continue
            one = self._appraiser.finalist(layout, "judged")
            if not self._appraiser.legal(one):
                continue
            bar = self._appraiser.score(self.best)[0]
            if self._appraiser.score(one)[0] < bar - (1 - WORTH_SHOWING) * abs(bar):
                continue
            report("judging", self.best.routing.value_mtokens_per_s, bound, step)
            self._offer(one)

    def _offer(self, one: Finalist) -> None:
        """Ask for a verdict, unless the same, or its like with equal peers swapped, had one."""
        likeness = self._likeness(one)
        if likeness in self._shown:
            return
        self._shown.add(likeness)
        value = self._verdict(one) - self._appraiser.moving_costs(one)
        if value > self._value:
            self._best, self._value = one, value

    def _likeness(self, one: Finalist) -> Likeness:
        """What tells finalists apart: flows; where all links are alike, what each kind holds."""
        if self._appraiser.snapshot.links or self._appraiser.live is not None:
            return one.routing.flows
        kinds = self._appraiser.capacities.kind.tolist()
        held = zip(kinds, one.layout.starts.tolist(), one.layout.ends.tolist(), strict=True)
        return tuple(sorted(held))
