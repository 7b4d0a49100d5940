"""Does the estimate rank placements as replays do? `./scripts/bench ranking`.

Placements of many kinds (published, by flow, hubs, and random walks away from each) are estimated
and replayed; printed is Spearman's rank correlation, per swarm and over all of them.
"""

import sys
from collections.abc import Iterator
from random import Random

import click
from scipy.stats import spearmanr

from helix_p2p.cluster.reference import published_placements, reference_snapshot
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import Capacities, capacities_of
from helix_p2p.planning.coverage import Layout, layout_of, value_of
from helix_p2p.planning.estimate import estimate
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.hubs import hub_layouts
from helix_p2p.planning.moves import Moves
from helix_p2p.planning.plan import Assignment, Placement
from helix_p2p.planning.recreate import greedy_baseline
from helix_p2p.sim.helix.replay import HelixRun, replay
from helix_p2p.sim.helix.setup import planned_setup

CASES = (("single24", "70b"), ("geo24", "70b"), ("single24", "30b"), ("geo24", "30b"))
MOST_CHANGES = 40


@click.command()
@click.option("--each", default=15, type=click.IntRange(min=4), help="Placements per swarm.")
@click.option("--window", default=60.0, help="Virtual seconds that count.")
def main(each: int, window: float) -> None:
    """Estimate and replay varied placements; print how well the estimate ranks them."""
    everything: list[tuple[float, float]] = []
    click.echo("| swarm | placements | rank correlation | estimate / replay, median |")
    click.echo("|---|---:|---:|---:|")
    for cluster, model in CASES:
        pairs = list(_pairs(cluster, model, each, window))
        everything += pairs
        _say(f"{cluster} {model}", pairs)
    _say("all", everything)


def _say(name: str, pairs: list[tuple[float, float]]) -> None:
    guessed, served = zip(*pairs, strict=True)
    ratios = sorted(a / b for a, b in pairs)
    correlation = float(spearmanr(guessed, served).statistic)
    click.echo(f"| {name} | {len(pairs)} | {correlation:.2f} | {ratios[len(ratios) // 2]:.2f} |")


def _pairs(cluster: str, model: str, each: int, window: float) -> Iterator[tuple[float, float]]:
    snapshot = reference_snapshot(cluster, model)
    table = capacities_of(snapshot)
    run = HelixRun(seed=1, begin_full=True, warm_up_s=20.0, duration_s=window)
    for layout in _varied(snapshot, table, cluster, model, each):
        routing = route_flow(snapshot, table, layout)
        held = layout.assignments(table)
        made = Placement(
            held, routing.flows, routing.value_mtokens_per_s, 0, routing.min_cut, "", 0.0
        )
        served = replay(planned_setup(cluster, model, made), run).decode_tokens_per_s
        if served > 0:
            yield estimate(snapshot, held, routing.flows).throughput_tokens_per_s, served


def _varied(
    snapshot: Snapshot, table: Capacities, cluster: str, model: str, count: int
) -> Iterator[Layout]:
    bound, random = upper_bound(table), Random(1)
    starts = [
        layout_of(table, (Assignment(p, r) for p, r in sorted(one.ranges.items())))
        for one in published_placements(cluster, model).values()
    ]
    starts += [greedy_baseline(table, bound), *hub_layouts(snapshot, table)]
    yield from starts[:count]
    moves = Moves(table, bound, random)
    for number in range(max(0, count - len(starts))):
        layout = starts[number % len(starts)]
        for _ in range(random.randrange(1, MOST_CHANGES)):
            changed = moves.reshaped(layout)
            if route_flow(snapshot, table, changed).value_mtokens_per_s > 0:
                layout = changed
        assert value_of(table, layout) > 0, "every change still covers"
        yield layout


if __name__ == "__main__":
    sys.exit(main())
