"""The fault table's own promises: what it names exists, and a broken row hides no other."""

import argparse
import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.faults import __main__ as command
from tests.faults import report
from tests.faults.rows import ROWS
from tests.faults.table import CannotMeasure, Measured, Row
from tests.faults.threats import THREATS

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("named", sorted({t for threat in THREATS for t in threat.tests}))
def test_every_test_of_a_threat_exists(named: str):
    if named.startswith("./scripts/faults "):
        assert named.removeprefix("./scripts/faults ") in {row.name for row in ROWS}
        return
    path, _, test = named.partition("::")
    assert f"def {test}" in (ROOT / path).read_text()


def test_rows_have_names_of_their_own():
    assert len({row.name for row in ROWS}) == len(ROWS)


def row(name, measure):
    return Row(name, "it breaks", "it holds", "by hand", 1, measure)


async def kept(setting):
    assert setting.folder.is_dir()
    return Measured("3 of 3 | all", kept=True)


async def broken(_setting):
    raise AssertionError("a token | was wrong")


async def impossible(_setting):
    raise CannotMeasure("no root")


def test_row_that_breaks_is_a_result_and_the_others_are_measured(tmp_path: Path, monkeypatch):
    told = io.StringIO()
    monkeypatch.setattr(command, "CONSOLE", Console(file=told, width=200))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options = argparse.Namespace(
        quick=True,
        trials=None,
        seed=1,
        report=None,
        json=tmp_path / "f.json",
        page=tmp_path / "f.md",
    )
    rows = [row("one", broken), row("two", impossible), row("three", kept)]
    assert asyncio.run(command.run(rows, options)) is False
    figures = report.load(options.json)
    assert not figures or set(figures) <= {r.name for r in ROWS}, "only rows of the table are kept"
    said = told.getvalue()
    assert "AssertionError: a token | was wrong" in said
    assert "not measured here: no root" in said
    assert "3 of 3" in said
    assert asyncio.run(command.run([rows[2]], options)) is True


def test_page_says_what_was_not_run(tmp_path: Path):
    rows = [row("one", kept), row("two", kept)]
    figures = {}
    report.remember(figures, rows[0], Measured("3 | 4", True), quick=True, on="today", root=ROOT)
    report.write(figures, rows, tmp_path / "f.json", tmp_path / "f.md")
    page = (tmp_path / "f.md").read_text()
    assert "3 \\| 4 (quick run) | by hand | yes |" in page
    assert "**two**: it breaks | it holds | not run | by hand | – |" in page
    assert report.load(tmp_path / "f.json") == figures


def test_unknown_row_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.chosen(["nonsense"])
    [line] = capsys.readouterr().err.splitlines()
    assert "there is no row nonsense" in line
