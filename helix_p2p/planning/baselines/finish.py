"""Gives a baseline's ranges what every placement has: max flow, min cut, bound.

Always: baselines are judged by the same max flow as our planner, over true links and with partial
inference, which can only help them.
"""

from collections.abc import Callable

import numpy as np

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import SwarmTooSmall
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import (
    FIRST,
    LAST,
    MIDDLE,
    WHOLE,
    Capacities,
    Ints,
    extra_bytes,
)
from helix_p2p.planning.coverage import Layout, coverage
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import OnProgress, PlanOptions, Progress


def roomy_lengths(snapshot: Snapshot, capacities: Capacities) -> Ints:
    """[peers, 4]: the most layers at each place that leave room for a usual KV cache.

    Petals' servers keep 4,096 tokens of attention cache for each of their layers, 16,384 where
    heads share keys and values (`attn_cache_tokens` in its server). A peer too small for that takes
    what it can.
    """
    model = snapshot.model
    cached = 16_384 if model.kv_bytes_per_token < 4 * model.d_model else 4_096
    held = [model.as_held(profile.held) for profile in snapshot.peers]
    layer_bytes = np.array([h.layer_bytes + h.kv_bytes_per_token * cached for h in held])
    memory = np.array([profile.memory_bytes for profile in snapshot.peers], dtype=np.int64)
    lengths = np.zeros_like(capacities.longest)
    for place in (MIDDLE, FIRST, LAST, WHOLE):
        lost = np.array([extra_bytes(h, place) for h in held], dtype=np.int64)
        fits = np.maximum(1, (memory - lost) // layer_bytes)
        fits = np.where(place == WHOLE, np.where(fits >= model.layers, fits, 0), fits)
        lengths[:, place] = np.minimum(capacities.longest[:, place], fits)
    return lengths


def empty_layout(capacities: Capacities) -> Layout:
    """Nobody holds anything yet."""
    count = len(capacities.peers)
    return Layout(np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64))


def finished(
    snapshot: Snapshot,
    capacities: Capacities,
    layout: Layout,
    solver: str,
    solve_s: float,
    on_progress: OnProgress | None,
    bound: int | None = None,
) -> Placement:
    """The placement of a layout.

    Raises:
        SwarmTooSmall: The layout leaves a layer to nobody.
    """
    held = coverage(capacities, layout)
    if int(held.min()) <= 0:
        bare = int((held <= 0).sum())
        raise SwarmTooSmall(
            f"{solver} leaves {bare} of {capacities.layers} layers to nobody",
            missing_bytes=bare * snapshot.model.layer_bytes,
            usable_peers=int((capacities.longest.max(axis=1) > 0).sum()),
            total_peers=len(capacities.peers),
            hint="this rule needs more memory than the planner `helix-p2p`",
        )
    routing = route_flow(snapshot, capacities, layout)
    proven = upper_bound(capacities)
    proven = proven if bound is None else max(min(proven, bound), routing.value_mtokens_per_s)
    if on_progress is not None:
        on_progress(Progress(solver, routing.value_mtokens_per_s, proven, 1, solve_s))
    return Placement(
        assignments=layout.assignments(capacities),
        flows=routing.flows,
        value_mtokens_per_s=routing.value_mtokens_per_s,
        bound_mtokens_per_s=proven,
        min_cut=routing.min_cut,
        solver=solver,
        solve_s=solve_s,
    )


def stopwatch(options: PlanOptions) -> Callable[[], float]:
    """Seconds since now by the clock of the options; 0 without one."""
    clock = options.clock
    if clock is None:
        return lambda: 0.0
    began_s = clock()
    return lambda: clock() - began_s
