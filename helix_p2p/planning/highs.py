"""Runs HiGHS in a process of its own, with a deadline that holds whatever the solver does.

Two reasons: highspy and ortools cannot be loaded into one process (both ship libhighs), and a MIP
solver deep in presolve hears neither its time limit nor a signal handler. The child
(`highs_process`) reads the model on stdin and writes one JSON line per improvement; an alarm set in
the kernel ends it, and so does the parent.

Always: the parent never waits longer than the deadline plus `GRACE_S` without output; the child is
gone when `solve` returns, however it returns; an incumbent that was found is never lost.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from helix_p2p.errors import SolverError

GRACE_S = 3.0
"""Starting the child takes about 1 s on a busy machine; HiGHS heeds its limit within 1 s mostly."""

_TICK_S = 0.25

OnBound = Callable[[float | None, float | None], None]
"""Told of (incumbent, bound); None while there is none."""


@dataclass(frozen=True, slots=True)
class MilpSolution:
    """What the solver found.

    Attributes:
        status: `optimal`, `feasible`, `infeasible` or `unknown` (nothing found in time).
        objective: Of the incumbent; None without one.
        bound: Proven bound on the objective; None without one.
        values: Of the incumbent, by variable name; empty without one.
    """

    status: str
    objective: float | None
    bound: float | None
    values: Mapping[str, float]


def solve(
    problem: Any,
    deadline_s: float,
    *,
    start: Mapping[str, float] | None = None,
    on_bound: OnBound | None = None,
    stop: Callable[[], bool] | None = None,
    threads: int = 1,
    command: tuple[str, ...] = (sys.executable, "-m", "helix_p2p.planning.highs_process"),
) -> MilpSolution:
    """Solve a PuLP problem with HiGHS.

    Args:
        problem: A `pulp.LpProblem`.
        deadline_s: Seconds of solving; the child is killed `GRACE_S` after.
        start: Values of all variables of a feasible solution.
        on_bound: Told whenever incumbent or bound improve.
        stop: Asked four times a second; True ends with what there is.
        threads: Of the solver.
        command: What to run; tests put broken solvers here.

    Raises:
        SolverError: The solver could not be started, died, or fell silent, without a solution.
    """
    task = {
        "problem": problem.toDict(),
        "deadline_s": deadline_s,
        "start": start,
        "threads": threads,
    }
    child = _started(command, json.dumps(task).encode())
    best: dict[str, Any] = {"status": "unknown", "objective": None, "bound": None, "values": {}}
    with child:
        try:
            for said in _lines(child, deadline_s + GRACE_S, stop):
                best.update({key: value for key, value in said.items() if value is not None})
                if on_bound is not None:
                    on_bound(best["objective"], best["bound"])
        finally:
            child.kill()
    finished = best.pop("done", False)
    if not finished and child.returncode not in (0, None) and not best["values"]:
        stopped = stop is not None and stop()
        if child.returncode not in (-9, -14) and not stopped:
            raise SolverError(f"HiGHS died with status {child.returncode}")
        if not stopped and best["bound"] is None:
            raise SolverError(f"HiGHS said nothing within {deadline_s:.0f} s")
    if best["values"] and best["status"] == "unknown":
        best["status"] = "feasible"
    return MilpSolution(**best)


def _started(command: tuple[str, ...], task: bytes) -> subprocess.Popen[bytes]:
    try:
        # A file, not a pipe: a child that never reads must not block us.
        with tempfile.TemporaryFile() as stdin:
            stdin.write(task)
            stdin.seek(0)
            # The command is ours. In a session of its own, so that Ctrl-C reaches only us.
            return subprocess.Popen(  # noqa: S603
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
    except OSError as error:
        raise SolverError(f"HiGHS could not be started: {error}") from error


def _lines(
    child: subprocess.Popen[bytes], silence_s: float, stop: Callable[[], bool] | None
) -> Iterator[dict[str, Any]]:
    """What the child says, until it ends, is silent for too long, or `stop` says so."""
    assert child.stdout is not None
    pending, silent_s = b"", 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while silent_s < silence_s and not (stop is not None and stop()):
            if not selector.select(_TICK_S):
                silent_s += _TICK_S
                continue
            chunk = os.read(child.stdout.fileno(), 1 << 16)
            if not chunk:
                child.wait()
                return
            silent_s = 0.0
            *whole, pending = (pending + chunk).split(b"\n")
            for line in whole:
                try:
                    said = json.loads(line)
                except ValueError as error:
                    raise SolverError("HiGHS answered with what is no answer") from error
                if not isinstance(said, dict):
                    raise SolverError("HiGHS answered with what is no answer")
                yield said
