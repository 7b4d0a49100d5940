import sys
import time
from pathlib import Path

import pulp
import pytest

from helix_p2p.errors import SolverError
from helix_p2p.planning.highs import GRACE_S, solve


def knapsack(items: int = 30) -> pulp.LpProblem:
    problem = pulp.LpProblem("knapsack", pulp.LpMaximize)
    taken = [problem.add_variable(f"x_{i}", cat="Binary") for i in range(items)]
    problem += pulp.lpSum((17 * i) % 53 * x + x for i, x in enumerate(taken))
    for j in range(3):
        problem += pulp.lpSum((13 * i + 7 * j) % 29 * x + x for i, x in enumerate(taken)) <= 100
    return problem


def test_solves_to_optimality_and_tells_incumbent_and_bound() -> None:
    told: list[tuple[float | None, float | None]] = []
    found = solve(knapsack(), 20, on_bound=lambda *pair: told.append(pair))
    assert found.status == "optimal"
    assert found.objective == pytest.approx(found.bound)
    assert told[-1][0] == pytest.approx(found.objective)
    again = solve(knapsack(), 20, start=found.values)
    assert again.objective == pytest.approx(found.objective)


def test_says_infeasible() -> None:
    problem = knapsack(5)
    problem += pulp.lpSum(problem.variables()) >= 6
    found = solve(problem, 20)
    assert (found.status, found.values) == ("infeasible", {})


def test_start_is_the_incumbent_when_nothing_better_is_found_in_time() -> None:
    nothing = {f"x_{i}": 0.0 for i in range(30)}
    told: list[float | None] = []
    solve(knapsack(), 20, start=nothing, on_bound=lambda incumbent, _: told.append(incumbent))
    assert told[0] == pytest.approx(0.0)


def test_dead_solver_is_a_typed_error() -> None:
    with pytest.raises(SolverError, match="status 3"):
        solve(knapsack(), 5, command=(sys.executable, "-c", "import sys; sys.exit(3)"))
    with pytest.raises(SolverError, match="could not be started"):
        solve(knapsack(), 5, command=("/nonexistent-solver",))
    with pytest.raises(SolverError, match="no answer"):
        solve(knapsack(), 5, command=(sys.executable, "-c", "print('hello', flush=True)"))


def test_silent_solver_is_left_at_the_deadline() -> None:
    before = time.monotonic()
    with pytest.raises(SolverError, match="said nothing"):
        # A problem larger than a pipe holds: writing it must not wait for a child that never reads.
        solve(knapsack(2000), 0.1, command=(sys.executable, "-c", "import time; time.sleep(60)"))
    assert time.monotonic() - before < 0.1 + GRACE_S + 5


def test_incumbent_outlives_a_solver_that_then_dies() -> None:
    code = (
        "import json, os, sys; sys.stdin.read();"
        "print(json.dumps({'objective': 7.0, 'bound': 9.0, 'values': {'x_0': 1.0}}), flush=True);"
        "os.abort()"
    )
    found = solve(knapsack(), 5, command=(sys.executable, "-c", code))
    assert (found.status, found.objective, found.bound) == ("feasible", 7.0, 9.0)


def test_stop_ends_the_child_at_once(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import os, sys, time, pathlib; sys.stdin.read();"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    found = solve(knapsack(), 60, stop=pid_file.exists, command=(sys.executable, "-c", code))
    assert found.status == "unknown"
    pid = int(pid_file.read_text() or 0)
    assert pid == 0 or not Path(f"/proc/{pid}").exists()
