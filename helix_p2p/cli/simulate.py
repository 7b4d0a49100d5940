"""`helix-p2p simulate`: one scenario in virtual time, with live figures.

What came out goes to stdout; progress goes to stderr.
"""

import json
import sys
from pathlib import Path

import click


@click.command()
@click.argument(
    "scenario", metavar="SCENARIO.toml", type=click.Path(dir_okay=False, path_type=Path)
)
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Of requests and choices.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE.html",
    help="Write a report with charts.",
)
def simulate(scenario: Path, seed: int, as_json: bool, report: Path | None) -> None:
    """Simulate the first placement, scheduler and setting of a scenario.

    docs/simulator.md explains scenario files; `helix-p2p compare` runs all their combinations.
    """
    from rich.console import Console

    from helix_p2p.cli.simulation import run_with_progress, show
    from helix_p2p.sim.report import report_html
    from helix_p2p.sim.runs import Job
    from helix_p2p.sim.scenario import read_scenario, setup_of

    read = read_scenario(scenario)
    setup = setup_of(read.cluster, read.placements[0])
    job = Job(read.placements[0], read.schedulers[0], read.mode, read.settings[0], seed)
    result = run_with_progress(read, setup, job, Console(stderr=True))
    if as_json:
        click.echo(json.dumps(result.as_dict(), default=str))
    else:
        show([result], Console(file=sys.stdout))
    if report is not None:
        report.write_text(report_html(read.name, [result]), encoding="utf-8")
