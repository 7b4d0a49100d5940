"""Separate pipelines: the GPUs of each type serve the whole model among themselves.

The Helix paper's third comparison (§5.1). A type whose GPUs cannot hold the model together stays
idle, which is why the rule fails on mixed swarms.

Always: within a type the stages are even; the number of stages is the one with the largest flow.
"""

from collections.abc import Iterable

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import SwarmTooSmall
from helix_p2p.planning.baselines.finish import empty_layout, finished, stopwatch
from helix_p2p.planning.baselines.swarm import fill_stages, split
from helix_p2p.planning.capacity import Capacities, capacities_of
from helix_p2p.planning.coverage import Layout, value_of
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import OnProgress, PlanOptions


def plan_separate(
    snapshot: Snapshot,
    options: PlanOptions,
    live: Placement | None = None,  # noqa: ARG001 (the split does not depend on it)
    on_progress: OnProgress | None = None,
) -> Placement:
    """Place each GPU type on its own.

    Raises:
        SwarmTooSmall: No type of GPU can hold the model alone.
    """
    elapsed_s = stopwatch(options)
    capacities = capacities_of(snapshot)
    layout = empty_layout(capacities)
    served = False
    for kind in sorted({profile.kind for profile in snapshot.peers}):
        rows = [row for row, profile in enumerate(snapshot.peers) if profile.kind == kind]
        alone = best_even_split(capacities, rows)
        if alone is not None:
            served = True
            layout.starts[rows], layout.ends[rows] = alone.starts[rows], alone.ends[rows]
    if not served:
        raise SwarmTooSmall(
            "no type of GPU holds the model alone, so separate pipelines are impossible",
            total_peers=len(snapshot.peers),
        )
    return finished(snapshot, capacities, layout, "separate", elapsed_s(), on_progress)


def best_even_split(capacities: Capacities, rows: list[int]) -> Layout | None:
    """The even split of these peers with the largest flow; None when they cannot hold the model."""
    found: tuple[int, Layout] | None = None
    for count in _stage_counts(capacities, rows):
        layout = fill_stages(capacities, split(capacities.layers, count), rows)
        value = value_of(capacities, layout)
        if value > 0 and (found is None or value > found[0]):
            found = (value, layout)
    return found[1] if found is not None else None


def _stage_counts(capacities: Capacities, rows: list[int]) -> Iterable[int]:
    longest = int(capacities.longest[rows].max()) if rows else 0
    if longest == 0:
        return ()
    fewest = -(-capacities.layers // longest)
    return range(fewest, min(len(rows), capacities.layers) + 1)
