"""Petals' rule: each peer that joins takes the longest range it can, where the swarm is weakest.

The range is the window whose throughputs, sorted ascending, are lexicographically least, the first
of equals (Borzunov et al., "Petals", 2023, §3.2; `choose_best_blocks` in Petals' source). Peers
join in the order of their ids, unless another order is given.

Always: a peer holds as many layers as fit beside a usual KV cache, whatever that does to its speed.
"""

from collections.abc import Sequence

import numpy as np

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.baselines.finish import empty_layout, finished, roomy_lengths, stopwatch
from helix_p2p.planning.capacity import FIRST, LAST, MIDDLE, WHOLE, Capacities, Ints, capacities_of
from helix_p2p.planning.coverage import Layout
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import OnProgress, PlanOptions
from helix_p2p.types import LayerRange, PeerId


def plan_petals(
    snapshot: Snapshot,
    options: PlanOptions,
    live: Placement | None = None,  # noqa: ARG001 (its peers choose once)
    on_progress: OnProgress | None = None,
) -> Placement:
    """Place by Petals' rule.

    Raises:
        SwarmTooSmall: The rule leaves a layer to nobody.
    """
    elapsed_s = stopwatch(options)
    capacities = capacities_of(snapshot)
    layout = petals_layout(snapshot, capacities)
    return finished(snapshot, capacities, layout, "petals", elapsed_s(), on_progress)


def petals_layout(
    snapshot: Snapshot,
    capacities: Capacities,
    order: Sequence[PeerId] | None = None,
    *,
    keep_kv_room: bool = True,
) -> Layout:
    """The ranges that peers choose one after another.

    Args:
        snapshot: For the model's sizes.
        capacities: Its table.
        order: Of joining; by id where None.
        keep_kv_room: Leave room for a usual KV cache, as Petals' servers do.
    """
    layout = empty_layout(capacities)
    served = np.zeros(capacities.layers, dtype=np.int64)
    lengths = roomy_lengths(snapshot, capacities) if keep_kv_room else capacities.longest
    for peer in capacities.peers if order is None else order:
        row = capacities.index[peer]
        held = _choose(capacities.layers, lengths[row], served)
        if held is not None:
            layout.starts[row], layout.ends[row] = held.start, held.end
            served[held.start : held.end] += capacities.of(row, held)
    return layout


def _choose(layers: int, longest: Ints, served: Ints) -> LayerRange | None:
    if longest[WHOLE]:
        return LayerRange(0, layers)
    # Petals' servers hold no embedding and no head; ours do at the ends and then hold fewer layers.
    windows = [LayerRange(0, int(longest[FIRST]))] if longest[FIRST] else []
    if longest[MIDDLE]:
        windows += [
            LayerRange(start, start + int(longest[MIDDLE]))
            for start in range(1, layers - int(longest[MIDDLE]))
        ]
    if longest[LAST]:
        windows.append(LayerRange(layers - int(longest[LAST]), layers))
    if not windows:
        return None
    return min(windows, key=lambda held: (sorted(served[held.start : held.end]), held.start))
