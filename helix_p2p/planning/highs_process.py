"""The child of `highs.solve`: a model on stdin, JSON lines with improvements on stdout.

Run as `python -m helix_p2p.planning.highs_process`. Always: the kernel's alarm ends it shortly
after its deadline, even inside the solver's C++; every incumbent is written the moment it is found.
"""

import json
import math
import os
import signal
import sys
from typing import Any

import highspy
import pulp

ALARM_SLACK_S = 2


class _WarmHiGHS(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's HiGHS with a start solution, which PuLP 3 does not pass on."""

    start: dict[str, float] | None = None

    def callSolver(self, lp: Any) -> None:  # noqa: N802 (PuLP's name)
        """Hand over the start, then run."""
        if self.start is not None:
            begin = highspy.HighsSolution()
            begin.col_value = [float(self.start[v.name]) for v in lp.variables()]
            lp.solverModel.setSolution(begin)
        lp.solverModel.run()


def main() -> None:
    """Read, solve, report."""
    # HiGHS and PuLP print; only our lines may reach the parent.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = json.load(sys.stdin)
    deadline_s = float(task["deadline_s"])
    signal.alarm(math.ceil(deadline_s) + ALARM_SLACK_S)
    _, problem = pulp.LpProblem.fromDict(task["problem"])
    sign = -1.0 if problem.sense == pulp.LpMaximize else 1.0
    names = [variable.name for variable in problem.variables()]

    def say(**fields: Any) -> None:
        out.write(json.dumps(fields) + "\n")
        out.flush()

    def heard(kind: Any, _message: str, data: Any, *_: Any) -> None:
        bound = data.mip_dual_bound
        said: dict[str, Any] = {"bound": sign * bound if math.isfinite(bound) else None}
        if kind == highspy.cb.HighsCallbackType.kCallbackMipImprovingSolution:
            said["objective"] = sign * data.objective_function_value
            said["values"] = dict(zip(names, map(float, data.mip_solution), strict=True))
        say(**said)

    solver = _WarmHiGHS(
        msg=False,
        timeLimit=deadline_s,
        threads=int(task["threads"]),
        callbackTuple=(heard, None),
        callbacksToActivate=[
            highspy.cb.HighsCallbackType.kCallbackMipImprovingSolution,
            highspy.cb.HighsCallbackType.kCallbackMipLogging,
        ],
    )
    solver.start = task["start"]
    problem.solve(solver)
    info = problem.solverModel.getInfo()
    status = problem.solverModel.getModelStatus()
    final: dict[str, Any] = {"done": True}
    if math.isfinite(info.mip_dual_bound):
        final["bound"] = sign * info.mip_dual_bound
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        solution = problem.solverModel.getSolution().col_value
        final["objective"] = sign * info.objective_function_value
        final["values"] = dict(zip(names, map(float, solution), strict=True))
        optimal = status == highspy.HighsModelStatus.kOptimal
        final["status"] = "optimal" if optimal else "feasible"
    elif status == highspy.HighsModelStatus.kInfeasible:
        final["status"] = "infeasible"
    say(**final)


if __name__ == "__main__":
    main()
