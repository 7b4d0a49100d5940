"""SWARM's even split: equal stages, and each peer joins the stage that has least capacity.

As the Helix paper compares with it (§5.1, after Ryabinin et al., "SWARM Parallelism", 2023): the
stages are as long as the smallest peer can hold beside a usual KV cache, the fastest peers are
placed first, of equals the last id.

Always: every stage is of one length, or of two that differ by one where no divisor comes near.
"""

from itertools import pairwise

import numpy as np

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import SwarmTooSmall
from helix_p2p.planning.baselines.finish import empty_layout, finished, roomy_lengths, stopwatch
from helix_p2p.planning.capacity import MIDDLE, Capacities, capacities_of
from helix_p2p.planning.coverage import Layout
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import OnProgress, PlanOptions
from helix_p2p.types import LayerRange

NEAR_SHARE = 0.75
"""An even divisor may be this much shorter than the longest stage that fits everyone; the
artifact splits 60 layers into 10 stages of 6 where the smallest GPU holds 7."""


def plan_swarm(
    snapshot: Snapshot,
    options: PlanOptions,
    live: Placement | None = None,  # noqa: ARG001 (the split does not depend on it)
    on_progress: OnProgress | None = None,
) -> Placement:
    """Place by an even split.

    Raises:
        SwarmTooSmall: There are fewer peers than stages.
    """
    elapsed_s = stopwatch(options)
    capacities = capacities_of(snapshot)
    layout = swarm_layout(snapshot, capacities)
    return finished(snapshot, capacities, layout, "swarm", elapsed_s(), on_progress)


def swarm_layout(snapshot: Snapshot, capacities: Capacities) -> Layout:
    """Equal stages, the fastest peers first to the weakest stage."""
    longest = roomy_lengths(snapshot, capacities).max(axis=1)
    usable = np.flatnonzero(longest > 0)
    if not usable.size:
        raise SwarmTooSmall(total_peers=len(capacities.peers))
    stages = even_stages(capacities.layers, int(longest[usable].min()))
    return fill_stages(capacities, stages, [int(row) for row in usable])


def fill_stages(capacities: Capacities, stages: list[LayerRange], rows: list[int]) -> Layout:
    """Each peer, fastest first, to the stage with the least capacity among those it fits into."""
    layout = empty_layout(capacities)
    served = [0] * len(stages)
    length = max(len(stage) for stage in stages)
    column = np.maximum(capacities.mtokens_per_s[:, MIDDLE, length], capacities.best[:, length])
    for row in sorted(rows, key=lambda row: (-int(column[row]), -row)):
        fitting = [n for n, stage in enumerate(stages) if capacities.of(row, stage) > 0]
        if not fitting:
            continue
        weakest = min(fitting, key=lambda n: served[n])
        served[weakest] += capacities.of(row, stages[weakest])
        layout.starts[row], layout.ends[row] = stages[weakest].start, stages[weakest].end
    return layout


def even_stages(layers: int, longest: int) -> list[LayerRange]:
    """Cut the layers into equal stages of at most `longest`."""
    longest = min(longest, layers)
    divisor = max(n for n in range(1, longest + 1) if layers % n == 0)
    count = layers // divisor if divisor >= NEAR_SHARE * longest else -(-layers // longest)
    return split(layers, count)


def split(layers: int, count: int) -> list[LayerRange]:
    """So many stages whose lengths differ by at most one."""
    bounds = [layers * n // count for n in range(count + 1)]
    return [LayerRange(a, b) for a, b in pairwise(bounds)]
