"""Many runs side by side, their report, and the two commands."""

import csv
import json
import re
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
from click.testing import CliRunner

from helix_p2p.cli.main import cli
from helix_p2p.errors import ConfigError
from helix_p2p.sim import charts
from helix_p2p.sim.helix.routes import Scheduler
from helix_p2p.sim.kept import KeptRuns
from helix_p2p.sim.report import report_html, results_csv
from helix_p2p.sim.runs import Job, jobs_of, run_all, run_job
from helix_p2p.sim.scenario import ClusterChoice, Mode, Setting, parse_scenario, setup_of

SMALL = """\
name = "small & quick"
placements = ["published:ilp", "published:petals"]
schedulers = ["max-flow", "random"]
seeds = 2
warm_up = "2 s"
duration = "15 s"

[cluster]
reference = "geo24"

[[settings]]
name = "offline"
load = "offline"

[[settings]]
name = "online"
load = "online"
arrival_tokens_per_s = 200
"""


@pytest.fixture(scope="module")
def scenario():
    return parse_scenario(SMALL, "small.toml", Path())


@pytest.fixture(scope="module")
def results(scenario):
    setups = {name: setup_of(scenario.cluster, name) for name in scenario.placements}
    return list(run_all(scenario, setups, jobs_of(scenario, with_native=True)))


def test_the_cross_product_is_full(scenario, results):
    keys = {(r.placement, r.served_by, r.setting, r.seed) for r in results}
    assert len(keys) == len(results) == 2 * 3 * 2 * 2


def test_native_serving_runs_once_per_load_and_each_seed_is_a_whole_comparison():
    text = (
        SMALL
        + '\n[[settings]]\nname = "paper"\nload = "offline"\nadmission = "paper"\nin_flight = 9\n'
    )
    jobs = jobs_of(parse_scenario(text, "small.toml", Path()), with_native=True)
    assert {j.setting.name for j in jobs if j.mode is Mode.NATIVE} == {"offline", "online"}
    half = len(jobs) // 2
    assert [replace(j, seed=0) for j in jobs[:half]] == [replace(j, seed=0) for j in jobs[half:]]


def test_what_was_done_is_taken_over_and_nothing_else(tmp_path, scenario, results):
    setups = {name: setup_of(scenario.cluster, name) for name in scenario.placements}
    jobs = jobs_of(scenario, with_native=True)
    nothing = replace(results[1], mean_decode_s=nan, decode_percentiles_s=(nan,) * 5)
    path = tmp_path / "done.jsonl"
    kept = KeptRuns(path, scenario, setups, resume=True)
    kept.keep(jobs[0], results[0])
    kept.keep(jobs[1], nothing)
    path.write_text(path.read_text() + '{"of": "cut o')

    again = KeptRuns(path, scenario, setups, resume=True)
    again.keep(jobs[3], results[3])
    again = KeptRuns(path, scenario, setups, resume=True)
    assert again.find(jobs[3]) == results[3]
    assert again.find(jobs[0]) == results[0]
    assert str(again.find(jobs[1])) == str(nothing)  # nan is no number's equal
    assert again.find(jobs[2]) is None
    longer = replace(scenario, duration_s=16.0)
    assert KeptRuns(path, longer, setups, resume=True).find(jobs[0]) is None
    other = setups | {jobs[0].placement: setups["published:petals"]}
    assert KeptRuns(path, scenario, other, resume=True).find(jobs[0]) is None
    assert KeptRuns(path, scenario, setups, resume=False).find(jobs[0]) is None
    assert not path.exists()


def test_processes_change_nothing_but_the_time(scenario, results):
    setups = {name: setup_of(scenario.cluster, name) for name in scenario.placements}
    jobs = jobs_of(scenario)[:4]
    beside = list(run_all(scenario, setups, jobs, processes=2))
    alone = list(run_all(scenario, setups, jobs))
    assert [replace(r, cpu_s=0.0) for r in beside] == [replace(r, cpu_s=0.0) for r in alone]


def test_figures_above_bars_have_three_digits_at_the_end_too():
    values = (0.0123, 0.886, 0.9996, 1.003, 3.94, 9.996, 40.86, 99.96, 331.2)
    shown = ["0.012", "0.89", "1.00", "1.00", "3.94", "10.0", "40.9", "100", "331"]
    assert [charts.brief(value) for value in values] == shown


def test_the_report_says_which_seed_its_curves_are_of_where_there_are_several(results):
    assert "first seed" in report_html("two", results)
    assert "first seed" not in report_html("one", [r for r in results if r.seed == 0])


def test_the_report_stands_alone_and_shows_every_run(results):
    page = report_html("small & quick", results)
    assert "small &amp; quick" in page
    assert not re.search(r"(src|href)=|@import|url\(|<script", page)
    for result in results:
        assert result.trace_hash[:12] in page
    for title in ("Tokens served per second", "Token latency", "KV over time", "measured load"):
        assert title in page
    assert page.count("<svg") == page.count("</svg>") > 20
    assert ">nan<" not in page


def test_the_csv_has_one_line_per_run(results):
    rows = list(csv.DictReader(results_csv(results).splitlines()))
    assert len(rows) == len(results)
    assert float(rows[0]["decode_tokens_per_s"]) == results[0].decode_tokens_per_s


def test_a_dask_cluster_that_is_not_there_is_refused(scenario):
    with pytest.raises(ConfigError, match="Dask"):
        list(run_all(scenario, {}, [], dask_address="tcp://127.0.0.1:1"))


def test_compare_writes_report_json_and_csv(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL.replace('"published:petals"', '"helix-p2p"').replace("seeds = 2", ""))
    done = CliRunner().invoke(cli, ["compare", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "helix-p2p" in done.stdout
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    kept = json.loads((tmp_path / "out" / "runs.json").read_text())
    assert len(kept["runs"]) == len((tmp_path / "out" / "runs.csv").read_text().split()) - 1 == 8


def test_compare_says_that_a_file_is_missing_before_what_else_lacks():
    result = CliRunner().invoke(cli, ["compare", "nofile.toml"])
    assert isinstance(result.exception, ConfigError)
    assert "nofile.toml: cannot be read" in str(result.exception)


def test_simulate_prints_figures_and_the_trace(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    one, two = (CliRunner().invoke(cli, ["simulate", str(path), "--json"]) for _ in range(2))
    assert one.exit_code == 0, one.output
    assert "NaN" not in one.stdout
    said = json.loads(one.stdout)
    assert said["trace_hash"] == json.loads(two.stdout)["trace_hash"]
    table = CliRunner().invoke(cli, ["simulate", str(path), "--seed", "1"])
    assert "published:ilp" in table.stdout
    assert said["trace_hash"] not in table.stdout


def test_nothing_is_drawn_of_no_data():
    assert charts.bars("t", "s", [charts.Bar("a", "b", float("nan"), 0, 0)]) == ""
    assert charts.curves("t", "s", "%", [charts.Curve("a", ())]) == ""
    assert charts.scatter("t", "x", "y", []) == ""
    assert charts.placement_map("t", 10, {}, {}) == ""


def test_a_legend_takes_the_rows_it_needs_and_stays_inside_the_chart():
    few, many = (
        charts.curves("t", "s", "n", [charts.Curve(f"scheduler {n}", ((0, 1),)) for n in range(k)])
        for k in (2, 9)
    )
    heights = [float(re.search(r'<svg [^>]*height="(\d+)"', drawn)[1]) for drawn in (few, many)]
    assert heights[1] > heights[0]
    assert "translate(0 " in many
    assert min(float(x) for x in re.findall(r'<text class="ink" x="(-?[\d.]+)"', many)) > 0


def test_who_waits_is_dashed_in_the_colour_of_who_runs():
    pair = [charts.Curve("a", ((0, 1),)), charts.Curve("b", ((0, 1),)),
            charts.Curve("b", ((0, 2),), dashed=True, said="b, waiting")]  # fmt: skip
    drawn = charts.curves("t", "s", "n", pair)
    _, solid, dashed = re.findall(r'<polyline [^>]*stroke="(#\w+)"', drawn)
    assert solid == dashed
    assert drawn.count("stroke-dasharray") == 1
    assert "<title>b, waiting</title>" in drawn


def test_bars_stand_on_one_scale():
    drawn = charts.bars("t", "s", [charts.Bar("g", "a", 10, 10, 10), charts.Bar("g", "b", 5, 4, 6)])
    high, low = (
        float(h)
        for h in re.findall(r'<rect x="[\d.]+" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', drawn)[
            :2
        ]
    )
    assert high == pytest.approx(2 * low, rel=0.01)
    assert "4–6 over seeds" in drawn


def test_no_way_leads_to_a_stage_that_leads_nowhere():
    """Petals leaves [33, 37) on geo24 without a successor; one-hop schedulers stranded there."""
    setup = setup_of(ClusterChoice("geo24", "70b", None), "petals")
    onward = {link.source for link in setup.links}
    assert all(link.target in onward for link in setup.links if link.target is not None)
    setting = Setting("as in the paper", in_flight=40, equal_admission=False)
    for scheduler in Scheduler:
        job = Job("petals", scheduler, Mode.HELIX, setting, 0)
        scenario = parse_scenario(SMALL.replace("published:petals", "petals"), "s", Path())
        assert run_job(scenario, setup, job).decode_tokens_per_s > 0


def test_a_placement_that_cannot_be_made_is_left_out_and_named(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL.replace('"published:petals"', '"separate"').replace("seeds = 2", ""))
    done = CliRunner().invoke(cli, ["compare", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "separate: no type of GPU holds the model alone" in page
    path.write_text(path.read_text().replace('"published:ilp", ', ""))
    alone = CliRunner().invoke(cli, ["compare", str(path), "--out", str(tmp_path / "out")])
    assert alone.exit_code != 0


def test_a_dask_cluster_gives_the_same_as_this_process(scenario):
    distributed = pytest.importorskip("dask.distributed")
    setups = {name: setup_of(scenario.cluster, name) for name in scenario.placements}
    jobs = jobs_of(scenario)[:3]
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        there = list(run_all(scenario, setups, jobs, dask_address=cluster.scheduler_address))
    here = list(run_all(scenario, setups, jobs))
    assert [r.trace_hash for r in there] == [r.trace_hash for r in here]
