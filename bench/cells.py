"""What cells cost in throughput: `./scripts/bench cells --peers 1000`.

The same volunteers, settled, as one cell and as several; each cell's planner plans for as long as a
real one may. Printed is the max flow of all its plans together, and the widest gap to a bound.
"""

import time

import click

from helix_p2p.errors import SwarmTooSmall
from helix_p2p.membership.cells import cells_for
from helix_p2p.node.membership import (
    PLAN_DEADLINE_MOST_S,
    PLAN_DEADLINE_S,
    PLAN_DEADLINE_S_PER_PEER,
)
from helix_p2p.planning.capacity import MTOKENS
from helix_p2p.planning.options import PlanOptions
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import plan
from helix_p2p.sim.volunteers import volunteers
from helix_p2p.types import MOST_CELLS

SETTLE_S = 60.0


@click.command()
@click.option("--peers", default=1000, show_default=True, type=click.IntRange(min=10))
@click.option(
    "--cells",
    multiple=True,
    type=click.IntRange(1, MOST_CELLS),
    help="Default: one, and as many as are advised (at least two).",
)
@click.option("--seed", default=0, show_default=True)
def main(peers: int, cells: tuple[int, ...], seed: int) -> None:
    """Plan the same peers in few and in many cells."""
    click.echo("| peers | cells | planned tokens/s | widest gap | CPU s, settling included |")
    click.echo("|---:|---:|---:|---:|---:|")
    for count in cells or (1, max(2, cells_for(peers, 1))):
        began_s = time.process_time()
        try:
            plans = _planned(peers, count, seed)
        except SwarmTooSmall as error:
            raise click.UsageError(f"{peers} peers in {count} cells: {error}") from error
        spent_s = time.process_time() - began_s
        flow = sum(made.value_mtokens_per_s for made in plans) / MTOKENS
        gap = max((made.gap for made in plans), default=0.0)
        click.echo(f"| {peers} | {count} | {flow:.0f} | {gap:.1%} | {spent_s:.0f} |")


def _planned(peers: int, cells: int, seed: int) -> list[Placement]:
    swarm = volunteers(peers, seed, cells=cells)
    swarm.time.run(SETTLE_S)
    made = []
    for planner in swarm.planners():
        member = swarm.minds[planner].member
        snapshot = member.snapshot() if member is not None else None
        if snapshot is not None:
            limit_s = PLAN_DEADLINE_S + len(snapshot.peers) * PLAN_DEADLINE_S_PER_PEER
            deadline_s = min(limit_s, PLAN_DEADLINE_MOST_S)
            made.append(plan(snapshot, PlanOptions(deadline_s=deadline_s, clock=time.process_time)))
    return made


if __name__ == "__main__":
    main()
