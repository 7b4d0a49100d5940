"""The benchmark of growing swarms: what it takes, and what it keeps of earlier rows."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import scale, sim, storm
from bench.scale import Course, grow, keep

ROW = Path(__file__).parents[3] / "docs" / "simulator-scale.json"


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (sim.main, "--peers", "0"),
        (sim.main, "--peers", "1"),
        (sim.main, "--cells", "0"),
        (sim.main, "--cells", "257"),
        (sim.main, "--seconds", "-5"),
        (sim.main, "--seconds", "0"),
        (sim.main, "--clients", "-1"),
        (sim.main, "--cpu-minutes", "0"),
        (storm.main, "--seeds", "0"),
        (storm.main, "--first", "-1"),
        (storm.main, "--seed", "-1"),
        (storm.main, "--most-peers", "1"),
        (storm.main, "--jobs", "0"),
    ],
)
def test_options_that_make_no_sense_are_refused(command, option, value):
    scaling = ["--scale"] if command is sim.main else []
    said = CliRunner().invoke(command, [*scaling, option, value])
    assert said.exit_code == 2
    assert option in said.output
    assert "not in the range" in said.output


def test_a_swarm_is_parted_as_it_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(scale, "ROWS", tmp_path / "rows.json")
    monkeypatch.setattr(scale, "PAGE", tmp_path / "page.md")
    one, two = (grow(Course(8, 10.0, 0, cells)) for cells in (None, 2))
    assert (one.cells, two.cells) == (1, 2)
    assert one.one_plan == two.one_plan == 1.0
    assert one.planned_tokens_per_s is not None
    keep(one)
    keep(two)
    keep(two)
    kept = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["peers"], row["cells"]) for row in kept] == [(8, 1), (8, 2)]
    page = (tmp_path / "page.md").read_text()
    assert one.row() in page
    assert two.row() in page
    columns = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert len(columns) == 1


def test_rows_that_are_kept_can_be_read():
    assert scale.ROWS == ROW
    for row in json.loads(ROW.read_text()):
        scale.Growth(**row).row()
