"""`./scripts/bench storm`: many lives of hostile, lossy, churning swarms against the invariants.

One line per seed that breaks something, with how to replay it; then a table. Exits with 1 if any
seed broke an invariant. With `--keep FILE` each life is written there as it ends, and a run that
was stopped goes on where it was.
"""

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path

import click

from tests.simulation.cabal import unleash
from tests.simulation.storm import Broken, Seen, Weather, live

TAKE_OVER_S, MERGE_S = 30.0, 15.0


@dataclass(frozen=True, slots=True)
class Life:
    """What became of one seed."""

    seed: int
    weather: Weather
    seen: Seen | None
    broken: str
    virtual_s: float
    cpu_s: float


def one(seed: int, most_peers: int) -> Life:
    """Live one seed through."""
    weather, began_s = Weather.of(seed, most_peers), time.process_time()
    seen, broken, virtual_s = None, "", 0.0
    try:
        lab = live(seed, weather, unleash)
        seen, virtual_s = lab.seen, lab.t
    except Broken as error:
        broken = str(error)
    return Life(seed, weather, seen, broken, virtual_s, time.process_time() - began_s)


def kept(path: Path | None, seeds: range) -> list[Life]:
    """Lives of these seeds that an earlier run left."""
    if path is None or not path.exists():
        return []
    lives = []
    for line in path.read_text().splitlines():
        said = json.loads(line)
        said["weather"] = Weather(**said["weather"])
        said["seen"] = Seen(**said["seen"]) if said["seen"] else None
        lives.append(Life(**said))
    return [life for life in lives if life.seed in seeds]


def percentile(values: list[float], share: float) -> float:
    """The least value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def _row(name: str, lives: list[Life]) -> str:
    seen = [life.seen for life in lives if life.seen is not None]
    overs = [s for one in seen for s in one.take_over_s]
    merges = [s for one in seen for s in one.merge_s]
    return (
        f"| {name} | {len(lives)} | {sum(bool(life.broken) for life in lives)} "
        f"| {percentile(overs, 0.5):.1f} | {percentile(overs, 0.95):.1f} "
        f"| {percentile(merges, 0.5):.1f} | {percentile(merges, 0.95):.1f} "
        f"| {sum(one.adoptions for one in seen)} | {sum(one.refused for one in seen)} "
        f"| {sum(one.banned for one in seen)} | {sum(one.routes_checked for one in seen)} "
        f"| {sum(life.virtual_s for life in lives) / 3600:.1f} "
        f"| {sum(life.cpu_s for life in lives):.0f} |"
    )


HEAD = """\
| swarms | seeds | broken | take-over s, p50 | p95 | merge s, p50 | p95 \
| adoptions | plans refused | bans | routes checked | virtual h | CPU s |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


@click.command()
@click.option(
    "--seeds", type=click.IntRange(min=1), default=500, show_default=True, help="How many."
)
@click.option(
    "--first", type=click.IntRange(min=0), default=0, show_default=True, help="The first of them."
)
@click.option("--seed", type=click.IntRange(min=0), help="Replay just this one.")
@click.option(
    "--most-peers",
    type=click.IntRange(min=12),
    default=60,
    show_default=True,
    help="Of the largest swarm.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--keep", type=click.Path(path_type=Path), help="Write lives here; go on from them.")
def main(
    seeds: int, first: int, seed: int | None, most_peers: int, jobs: int, keep: Path | None
) -> None:
    """Twelve to sixty machines: loss, skew, crashes, partitions, a hostile quarter."""
    numbers = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    lives = kept(keep, numbers)
    done = {life.seed for life in lives}
    to_live = [number for number in numbers if number not in done]
    with ProcessPoolExecutor(jobs) as pool:
        for life in pool.map(one, to_live, repeat(most_peers)):
            lives.append(life)
            if keep is not None:
                with keep.open("a") as file:
                    file.write(json.dumps(asdict(life)) + "\n")
            if life.broken or seed is not None:
                click.echo(f"{life.seed}: {life.weather} {life.broken or life.seen}")
    click.echo(HEAD)
    click.echo(_row("honest", [life for life in lives if not life.weather.hostile]))
    click.echo(_row("up to a quarter hostile", [life for life in lives if life.weather.hostile]))
    click.echo(_row("all", lives))
    if any(life.broken for life in lives):
        sys.exit(1)


if __name__ == "__main__":
    main()
