"""Finalists before a judge: compared first, the best one is changed while the judge agrees, finals.

The judge (a replay, as a rule) is a hundred times as dear as the estimate. So the estimate filters:
what it thinks much worse than the best is not shown. Chance has a part in what a judge says, and
of sixty changes the luckiest is kept; so what came of the best one meets the other starts again in
finals, which are longer and in which nobody was chosen by luck.

Values are kept less what a migration costs, like the estimate's scores.

Always: the best finalist is legal and only ever improves by the judge's word; nothing is judged
twice in one trial; deterministic where the judge is and nothing is stopped by the clock.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from helix_p2p.planning.appraisal import Appraiser, Finalist
from helix_p2p.planning.coverage import Layout, value_of
from helix_p2p.planning.moves import Moves

COMPARED = 4
"""Finalists that are shown; a replay takes 0.3 to 0.5 s each at 24 peers."""

WORTH_SHOWING = 0.97
"""Of the best one's estimated score. The estimate tells neighbours apart within a few percent."""

HOPEFUL = 0.75
"""Of the best value in the search: what meets it in the finals. Replays of one placement stray by 4
to 7 % from one draw of requests to another, and the best of sixty was lucky."""

ALIKE = 0.97
"""Of the best in the finals: what those cannot tell apart; the estimate decides."""

Trial = Callable[[Finalist, int], float]
"""A finalist's value: trial 0 is the search's, those above are finals."""

Report = Callable[[str, int, int, int], None]

Likeness = tuple[tuple[int, int, int], ...]
"""Who holds what, sorted; equal peers go by one name."""


@dataclass
class _Line:
    """A start, and what became of it.

    Attributes:
        best: So far.
        value: The judge's, in the search.
        score: Estimated, with its plain flow, as changes are.
    """

    best: Finalist
    value: float
    score: float


class Judging:
    """One run of the judge.

    Args:
        appraiser: Of layouts.
        trial: The judge's verdict on a finalist.
        finals: How many there are.
        over: Whether the time is.
    """

    def __init__(
        self, appraiser: Appraiser, trial: Trial, finals: int, over: Callable[[], bool]
    ) -> None:
        self._appraiser, self._trial, self._finals, self._over = appraiser, trial, finals, over
        self._lines: list[_Line] = []
        self._seen: set[Likeness] = set()

    @property
    def best(self) -> Finalist:
        """The judge's choice."""
        return self._leader.best

    def compare(self, ranked: Iterable[Finalist]) -> None:
        """Show the first few that differ, in the order given."""
        for one in ranked:
            if len(self._lines) == COMPARED or (self._lines and self._over()):
                return
            if self._is_new(one):
                score = self._appraiser.score(self._appraiser.finalist(one.layout, ""))[0]
                self._lines.append(_Line(one, self._value(one, 0), score))

    def improve(
        self,
        moves: int,
        bound: int,
        random: Random,
        report: Report,
        late: Callable[[], bool] = lambda: False,
    ) -> None:
        """Try so many changes of the best, one after another, until it is late."""
        changes = Moves(self._appraiser.capacities, bound, random)
        line, shown = self._leader, 0
        for step in range(100 * moves):
            if shown == moves or self._over() or late():
                return
            changed = self._worth_showing(line, changes.reshaped(line.best.layout))
            if changed is None:
                continue
            report("judging", line.best.routing.value_mtokens_per_s, bound, step)
            shown += 1
            value = self._value(changed[0], 0)
            if value > line.value:
                line.best, line.score = changed
                line.value = value

    def decide(self) -> None:
        """Of what came of the starts, keep the best in as many finals as there is time for."""
        most = self._leader.value
        hopeful = [x for x in self._lines if x.value >= most - (1 - HOPEFUL) * abs(most)]
        if len(hopeful) < 2:
            return
        shares = [0.0] * len(hopeful)
        for trial in range(1, 1 + self._finals):
            values = []
            for line in hopeful:
                if self._over():
                    break
                values.append(self._value(line.best, trial))
            if len(values) < len(hopeful):
                break
            # Trials of different loads differ in scale and count alike.
            most = max(1e-9, *values)
            shares = [share + value / most for share, value in zip(shares, values, strict=True)]
        if not any(shares):
            return  # no final was held
        bar = max(shares) - (1 - ALIKE) * abs(max(shares))
        alike = [line for line, share in zip(hopeful, shares, strict=True) if share >= bar]
        self._lines = [max(alike, key=lambda line: self._appraiser.score(line.best))]

    def _worth_showing(self, line: _Line, layout: Layout) -> tuple[Finalist, float] | None:
        """A change with its score, unless the estimate thinks little of it or it was seen."""
        if value_of(self._appraiser.capacities, layout) <= 0:
            return None
        one = self._appraiser.finalist(layout, "judged")
        score = self._appraiser.score(one)[0]
        if score < line.score - (1 - WORTH_SHOWING) * abs(line.score):
            return None
        if not self._appraiser.legal(one) or not self._is_new(one):
            return None
        return self._appraiser.cheapest(one), score

    @property
    def _leader(self) -> _Line:
        assert self._lines, "finalists are compared first"
        return max(self._lines, key=lambda line: line.value)

    def _value(self, one: Finalist, trial: int) -> float:
        return self._trial(one, trial) - self._appraiser.moving_costs(one)

    def _is_new(self, one: Finalist) -> bool:
        """Whether neither it nor its like, with equal peers swapped, was seen; now it is."""
        appraiser, layout = self._appraiser, one.layout
        names: Iterable[int] = range(len(appraiser.capacities.peers))
        if not appraiser.snapshot.links and appraiser.live is None:
            names = appraiser.capacities.kind.tolist()  # where all links are alike
        held = zip(names, layout.starts.tolist(), layout.ends.tolist(), strict=True)
        likeness = tuple(sorted(held))
        if likeness in self._seen:
            return False
        self._seen.add(likeness)
        return True
