"""`helix-p2p plan`: who should hold which layers of a swarm, with the flow and its proof.

Plans over a cluster file or one of the Helix paper's clusters, with our planner or one of those it
is compared with. Always: only options are here; solvers are imported when there is something to
plan (`planning.py`), so that `--help` answers at once.
"""

from pathlib import Path

import click

OURS = "helix-p2p"
PLANNERS = (OURS, "helix", "helix-partial", "petals", "swarm", "separate")
OBJECTIVES = ("throughput", "latency", "flow")
LATENCY_WEIGHT, MOST_LATENCY_WEIGHT = 0.4, 10.0


@click.command(context_settings={"show_default": True})
@click.argument("cluster", metavar="FILE|single24|geo24|high42|quality10")
@click.option("--model", "-m", default=None, help="30b or 70b, for the paper's clusters.")
@click.option(
    "--planner",
    default=OURS,
    type=click.Choice(PLANNERS),
    help="Ours, or one that it is compared with.",
)
@click.option(
    "--objective",
    default=OBJECTIVES[0],
    type=click.Choice(OBJECTIVES),
    help="What is to be best.",
)
@click.option(
    "--latency-weight",
    default=LATENCY_WEIGHT,
    type=click.FloatRange(min=0, max=MOST_LATENCY_WEIGHT),
    metavar="NUMBER",
    help="For throughput: how much waiting counts; 0 for throughput alone.",
)
@click.option(
    "--time-limit",
    default=30.0,
    type=click.FloatRange(min=0.01, max=86_400),
    metavar="SECONDS",
    help="Search no longer than this.",
)
@click.option(
    "--thorough",
    is_flag=True,
    help="Use all of the time limit, and let short replays choose among the best plans.",
)
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Of the search's chance.")
@click.option("--explain", is_flag=True, help="Also the min cut, and what each peer is worth.")
@click.option("--compare", is_flag=True, help="All planners side by side.")
@click.option(
    "--what-if-leaves",
    "leavers",
    multiple=True,
    metavar="PEER",
    help="Also what becomes of the plan without this peer; may be given again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE.svg|FILE.html",
    help="Draw the plan.",
)
def plan(
    cluster: str,
    model: str | None,
    planner: str,
    objective: str,
    latency_weight: float,
    time_limit: float,
    thorough: bool,
    seed: int,
    explain: bool,
    compare: bool,
    leavers: tuple[str, ...],
    as_json: bool,
    picture: Path | None,
) -> None:
    """Plan who serves which layers of a model, with the flow and a proof of how good it is.

    FILE is a cluster file (docs/cluster-file.md); the names are the clusters of the Helix paper.
    """
    from helix_p2p.cli.planning import Asked, PlanRequest, run_plan

    run_plan(
        Asked(
            cluster=cluster,
            model=model,
            request=PlanRequest(planner, objective, time_limit, seed, thorough, latency_weight),
            explain=explain,
            compare=compare,
            leavers=leavers,
            as_json=as_json,
            picture=picture,
        )
    )
