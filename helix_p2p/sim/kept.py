"""Runs that are done, line by line on disk, so that an interrupted comparison can go on.

A comparison at real length takes an hour; whoever stops it should not lose what it has found.

Always: a line is one run and what it was a run of, by a hash over everything that its result
depends on but the code; a line that was cut off while it was written is nobody's.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from math import nan
from pathlib import Path
from typing import Any

import msgspec

from helix_p2p.sim.helix.setup import HelixSetup
from helix_p2p.sim.runs import Job, RunResult
from helix_p2p.sim.scenario import Scenario

_MAY_BE_NAN = ("mean_prompt_s", "mean_decode_s", "prompt_percentiles_s", "decode_percentiles_s")


class KeptRuns:
    """Runs of one scenario in one file.

    Args:
        path: Of the file; it is made with the first run.
        scenario: Whose runs.
        setups: By placement.
        resume: Whether what the file holds counts; otherwise it is begun anew.
    """

    def __init__(
        self, path: Path, scenario: Scenario, setups: Mapping[str, HelixSetup], *, resume: bool
    ) -> None:
        self._path = path
        self._about = repr(
            (scenario.warm_up_s, scenario.duration_s, scenario.loss, scenario.faults)
        )
        self._setups = {name: _hash(repr(setup)) for name, setup in setups.items()}
        self._known: dict[str, RunResult] = {}
        if not resume:
            path.unlink(missing_ok=True)
        elif path.exists():
            whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
            self._known = dict(map(_read, whole.splitlines()))
            path.write_text(whole + "\n" if whole else "", encoding="utf-8")

    def find(self, job: Job) -> RunResult | None:
        """What a job gave, where it is done."""
        return self._known.get(self._name(job))

    def keep(self, job: Job, result: RunResult) -> None:
        """A job is done."""
        line = json.dumps({"of": self._name(job), "run": result.as_dict()}, default=str)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _name(self, job: Job) -> str:
        return _hash(f"{self._about} {self._setups[job.placement]} {job!r}")


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _read(line: str) -> tuple[str, RunResult]:
    kept: dict[str, Any] = json.loads(line)
    run = kept["run"]
    for name in _MAY_BE_NAN:
        run[name] = _with_nan(run[name])
    return kept["of"], msgspec.convert(run, RunResult)


def _with_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_nan(inner) for inner in value]
    return nan if value is None else value
