"""`helix-p2p compare`: every placement under every scheduler, setting and seed, side by side."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from helix_p2p.sim.scenario import Scenario


def _read(_context: click.Context, _argument: click.Parameter, path: Path) -> "Scenario":
    """While the command line is read: a file that is not there is said before what else lacks."""
    from helix_p2p.sim.scenario import read_scenario

    return read_scenario(path)


@click.command()
@click.argument(
    "scenario",
    metavar="SCENARIO.toml",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_read,
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Where report.html, runs.json and runs.csv go.",
)
@click.option("--jobs", default=1, type=click.IntRange(min=1), help="Processes on this machine.")
@click.option("--dask", "dask_address", default=None, metavar="ADDRESS", help="Of a Dask cluster.")
@click.option("--native", is_flag=True, help="Each placement under our own serving as well.")
@click.option("--resume", is_flag=True, help="Take over what an earlier call finished in FOLDER.")
def compare(
    scenario: "Scenario", out: Path, jobs: int, dask_address: str | None, native: bool, resume: bool
) -> None:
    """Run the cross product of a scenario and write a report with charts."""
    from rich.console import Console

    from helix_p2p.cli.simulation import run_side_by_side, show
    from helix_p2p.errors import SolverError, SwarmTooSmall
    from helix_p2p.sim.helix.setup import HelixSetup
    from helix_p2p.sim.kept import KeptRuns
    from helix_p2p.sim.report import report_html, results_csv, results_json
    from helix_p2p.sim.runs import jobs_of
    from helix_p2p.sim.scenario import setup_of

    out.mkdir(parents=True, exist_ok=True)
    messages = Console(stderr=True)
    setups: dict[str, HelixSetup] = {}
    without: dict[str, SwarmTooSmall | SolverError] = {}
    for name in scenario.placements:
        messages.print(f"planning: {name}", highlight=False)
        try:
            setups[name] = setup_of(scenario.cluster, name)
        except (SwarmTooSmall, SolverError) as error:
            # A baseline's rule may find nothing where others do.
            without[name] = error
            messages.print(f"left out: {name}: {error.message}", highlight=False)
    if not setups:
        raise next(iter(without.values()))
    reasons = {name: error.message for name, error in without.items()}
    results = run_side_by_side(
        scenario,
        setups,
        [job for job in jobs_of(scenario, with_native=native) if job.placement in setups],
        messages,
        processes=jobs,
        dask_address=dask_address,
        kept=KeptRuns(out / "done.jsonl", scenario, setups, resume=resume),
    )
    (out / "report.html").write_text(report_html(scenario.name, results, reasons), encoding="utf-8")
    (out / "runs.json").write_text(results_json(scenario.name, results), encoding="utf-8")
    (out / "runs.csv").write_text(results_csv(results), encoding="utf-8")
    show(results, Console(file=sys.stdout))
    messages.print(f"report: {out / 'report.html'}", highlight=False)
