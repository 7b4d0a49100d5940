"""Finalists before a judge: compared first, then the best one is changed while the judge agrees.

The judge (a replay, as a rule) is a hundred times as dear as the estimate. So the estimate filters:
what it thinks much worse than the best is not shown. Verdicts are kept less what a migration costs,
like the estimate's scores.

Always: the best finalist is legal and only ever improves by the judge's word; deterministic where
the judge is and nothing is stopped by the clock.
"""

from collections.abc import Callable, Iterable
from random import Random

from helix_p2p.planning.appraisal import Appraiser, Finalist
from helix_p2p.planning.coverage import value_of
from helix_p2p.planning.moves import Moves

COMPARED = 4
"""Finalists that are shown; a replay takes 0.3 s each at 24 peers."""

WORTH_SHOWING = 0.97
"""Of the best one's estimated score. The estimate tells neighbours apart within a few percent."""

Verdict = Callable[[Finalist], float]
Report = Callable[[str, int, int, int], None]


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

    @property
    def best(self) -> Finalist:
        """The judge's choice."""
        assert self._best is not None, "finalists are compared first"
        return self._best

    def compare(self, ranked: Iterable[Finalist]) -> None:
        """Show the first few that differ, in the order given."""
        shown: list[Finalist] = []
        for one in ranked:
            if len(shown) == COMPARED or (shown and self._over()):
                return
            if any(one.routing.flows == other.routing.flows for other in shown):
                continue
            shown.append(one)
            self._offer(one)

    def improve(self, moves: int, bound: int, random: Random, report: Report) -> None:
        """Try so many changes of the best, one after another."""
        changes = Moves(self._appraiser.capacities, bound, random)
        capacities, shown = self._appraiser.capacities, 0
        for step in range(100 * moves):
            if shown == moves or self._over():
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
            shown += 1
            self._offer(one)

    def _offer(self, one: Finalist) -> None:
        value = self._verdict(one) - self._appraiser.moving_costs(one)
        if value > self._value:
            self._best, self._value = one, value
