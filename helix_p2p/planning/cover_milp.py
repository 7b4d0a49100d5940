"""The cover as a mixed integer program: for bounds that search alone cannot prove.

x_kr counts the peers of kind k that hold range r: maximise t with Σ c_kr · x_kr ≥ t on every layer
(over the ranges that hold it) and Σ_r x_kr ≤ peers of kind k. No edges, no big-M, so HiGHS proves
useful bounds where Helix's own program stays at gaps of thousands of percent. Capacities above a
known bound are cut down to it, which changes no optimum and tightens the relaxation.

Always: only the model is built here; solving happens in another process (`highs`). A solver that
dies or is late leaves the search's own result as it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from helix_p2p.errors import SolverError
from helix_p2p.planning.capacity import MTOKENS, Capacities, Ints
from helix_p2p.planning.coverage import Layout, value_of
from helix_p2p.planning.recreate import choices_of

MOST_COLUMNS = 12_000
"""Beyond this HiGHS does not finish the root of the tree in a minute on one slow core."""


class Solution(Protocol):
    """What a solver answers; see `highs.MilpSolution`."""

    @property
    def status(self) -> str:
        """`optimal`, `feasible`, `infeasible` or `unknown`."""

    @property
    def bound(self) -> float | None:
        """Proven bound on the objective."""

    @property
    def values(self) -> Mapping[str, float]:
        """Of the incumbent, by variable name."""


class Solver(Protocol):
    """Solves a PuLP problem within a deadline; `highs.solve` is one."""

    def __call__(
        self,
        problem: Any,
        deadline_s: float,
        *,
        start: Mapping[str, float] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Solution:
        """Raises SolverError when the solver dies or says nothing."""


@dataclass(frozen=True)
class Tightened:
    """What the program brought.

    Attributes:
        layout: Better than what was known, else None.
        bound: Proven, thousandths of a token per second; the known one where nothing better.
        said: One line for people.
    """

    layout: Layout | None
    bound: int
    said: str


def columns_of(capacities: Capacities) -> int:
    """How many integer variables the program would have."""
    rows = np.unique(capacities.kind, return_index=True)[1]
    return sum(choices_of(capacities, int(row)).starts.size for row in rows)


def tighten(
    capacities: Capacities,
    best: Layout,
    bound: int,
    solver: Solver,
    deadline_s: float,
    stop: Callable[[], bool] | None = None,
) -> Tightened:
    """Let a solver improve the bound, and the layout if it can.

    Args:
        capacities: The table.
        best: The best layout so far; the solver starts from it.
        bound: Proven so far.
        solver: Injected, for it is another process.
        deadline_s: Seconds of solving.
        stop: Asked meanwhile; True ends it.
    """
    program = _Program(capacities, bound)
    try:
        answer = solver(program.problem, deadline_s, start=program.start(best), stop=stop)
    except SolverError as error:
        return Tightened(
            None, bound, f"the solver gave nothing ({error}); the search's plan stands"
        )
    proven = bound
    if answer.bound is not None:
        # Half a thousandth of a token covers the solver's own tolerance.
        proven = min(bound, int(np.floor(answer.bound * MTOKENS * (1 + 1e-6) + 0.5)))
    layout = program.layout(answer.values) if answer.values else None
    value = value_of(capacities, best)
    if layout is not None and value_of(capacities, layout) <= value:
        layout = None
    reached = value if layout is None else value_of(capacities, layout)
    return Tightened(layout, max(proven, reached), f"HiGHS: {answer.status}")


class _Program:
    def __init__(self, capacities: Capacities, bound: int) -> None:
        import pulp  # late: only those who ask for this proof need it

        self._capacities = capacities
        _, rows, counts = np.unique(capacities.kind, return_index=True, return_counts=True)
        self.problem = pulp.LpProblem("cover", pulp.LpMaximize)
        rate = self.problem.add_variable("t", 0, bound / MTOKENS)
        self.problem += rate
        on_layer: list[list[Any]] = [[] for _ in range(capacities.layers)]
        self._ranges: dict[str, tuple[int, int, int]] = {}
        for kind, (row, count) in enumerate(zip(rows, counts, strict=True)):
            choices = choices_of(capacities, int(row))
            taken = []
            for start, end, carried in zip(
                choices.starts.tolist(),
                choices.ends.tolist(),
                choices.carried.tolist(),
                strict=True,
            ):
                name = f"x_{kind}_{start}_{end}"
                held = self.problem.add_variable(name, 0, int(count), "Integer")
                self._ranges[name] = (kind, start, end)
                taken.append(held)
                term = min(carried, bound) / MTOKENS * held
                for layer in range(start, end):
                    on_layer[layer].append(term)
            self.problem += pulp.lpSum(taken) <= int(count)
        for terms in on_layer:
            self.problem += pulp.lpSum(terms) >= rate
        self._bound = bound

    def start(self, layout: Layout) -> dict[str, float]:
        """A layout as the program's variables."""
        values = dict.fromkeys(self._ranges, 0.0)
        kinds = self._capacities.kind
        for row, (start, end) in enumerate(zip(layout.starts, layout.ends, strict=True)):
            if end > start:
                values[f"x_{kinds[row]}_{start}_{end}"] += 1.0
        capped = min(self._bound, value_of(self._capacities, layout))
        return {**values, "t": capped / MTOKENS}

    def layout(self, values: Mapping[str, float]) -> Layout:
        """The layout of a solution."""
        kinds = self._capacities.kind
        starts: Ints = np.zeros(kinds.size, dtype=np.int64)
        ends: Ints = np.zeros(kinds.size, dtype=np.int64)
        free = {int(kind): list(np.flatnonzero(kinds == kind)) for kind in np.unique(kinds)}
        for name, (kind, start, end) in self._ranges.items():
            for _ in range(round(values.get(name, 0.0))):
                row = free[kind].pop(0)
                starts[row], ends[row] = start, end
        return Layout(starts, ends)
