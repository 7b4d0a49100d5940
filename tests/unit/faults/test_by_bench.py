"""The soak's row says what its report says, and is kept only when all of that holds."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from bench import soak as bench_soak
from bench.report import Report
from tests.faults.by_bench import soak
from tests.faults.table import Setting


def written(folder: Path, errors: Counter[str], memory: dict[str, tuple[int, int]]) -> Path:
    """A report as `bench soak` makes it, of processes with this memory at begin and end."""
    report = Report("60 minutes of mixed load on three peers")
    outcome = bench_soak.Outcome(
        Counter(short=8, long=2), 42, errors, compared=3, vanished=Counter(killed=1)
    )
    samples = {
        name: [bench_soak.Sample(at, late if at > 30 else early, 20, 8) for at in range(60)]
        for name, (early, late) in memory.items()
    }
    bench_soak._report(report, outcome, samples, [])
    path = folder / "soak.json"
    report.finish(path)
    return path


def row(folder: Path, report: Path):
    setting = Setting(folder, folder, False, None, 1, print, report)
    return asyncio.run(soak(setting))


def test_row_of_the_soak_says_what_grew_most(tmp_path: Path):
    path = written(tmp_path, Counter(), {"p0": (10**8, 10**8), "p1": (10**8, 102 * 10**6)})
    found = row(tmp_path, path)
    assert found.kept
    assert "60 minutes" in found.said
    assert "10 requests, 42 tokens, errors: none; same seed: 3 of 3 equal" in found.said
    assert "memory +2.0% (p1)" in found.said


@pytest.mark.parametrize(
    ("errors", "late", "missed"),
    [(Counter({"short: PeerLost": 2}), 10**8, "load: errors 2"), (Counter(), 2 * 10**8, "p0 100")],
)
def test_row_of_the_soak_names_what_does_not_hold(tmp_path: Path, errors, late, missed):
    found = row(tmp_path, written(tmp_path, errors, {"p0": (10**8, late)}))
    assert not found.kept
    assert missed in found.said.split("missed: ")[1]
