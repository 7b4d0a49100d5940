"""Placements of plain chains: every peer in one pipeline, its share of layers even in room.

The other searches start from covers that carry much, whose ranges are long; KV cache then has
little room, and few requests are in flight. A chain over many peers is the other end: short ranges,
the most room. On the paper's L4s alone it serves a fifth more than covers of a higher flow.

Always: deterministic; every layout covers every layer and every range fits. They are starts for the
search on service, not finished placements.
"""

from collections.abc import Iterable

import numpy as np

from helix_p2p.planning.capacity import Capacities, Ints
from helix_p2p.planning.coverage import Layout, value_of


def chain_layouts(capacities: Capacities, splits: Iterable[list[Ints]]) -> list[Layout]:
    """Unsplit and for each split: one chain per group, two, and as many as there is room for.

    Args:
        capacities: The table.
        splits: Groups of rows; a group that cannot hold the model alone rules its split out.
    """
    found: list[Layout] = []
    unsplit = [np.arange(len(capacities.peers), dtype=np.int64)]
    for groups in [unsplit, *splits]:
        most = min((_room(capacities, rows) for rows in groups), default=0)
        for count in sorted({1, 2, most}):
            if not 1 <= count <= most:
                continue
            layout = _chained(capacities, groups, count)
            if layout is not None:
                found.append(layout)
    return found


def _room(capacities: Capacities, rows: Ints) -> int:
    """Copies of the model that the group could hold."""
    return int(capacities.longest[rows].max(axis=1).sum()) // capacities.layers


def _chained(capacities: Capacities, groups: list[Ints], count: int) -> Layout | None:
    peers = len(capacities.peers)
    starts, ends = np.zeros(peers, dtype=np.int64), np.zeros(peers, dtype=np.int64)
    for rows in groups:
        holds = capacities.longest[rows].max(axis=1)
        order = rows[np.argsort(-holds, kind="stable")]
        for number in range(count):
            members = np.sort(order[number::count])
            lengths = _shares(capacities.longest[members].max(axis=1), capacities.layers)
            if lengths is None:
                return None
            reached = np.cumsum(lengths)
            starts[members], ends[members] = reached - lengths, reached
    idle = ends == starts
    starts[idle] = ends[idle] = 0
    layout = Layout(starts, ends)
    held = np.flatnonzero(~idle)
    carried = capacities.of_layout(starts, ends)[held]
    return layout if value_of(capacities, layout) > 0 and bool((carried > 0).all()) else None


def _shares(longest: Ints, layers: int) -> Ints | None:
    """So many layers for each, as even a share of its most as whole layers allow.

    What is left over goes to the middle: the ends hold the embedding and the head as well.
    """
    if int(longest.sum()) < layers:
        return None
    lengths = longest * layers // int(longest.sum())
    from_middle = np.abs(2 * np.arange(longest.size) - (longest.size - 1))
    while (short := layers - int(lengths.sum())) > 0:
        filled = np.where(longest > lengths, (lengths + 1) / np.maximum(longest, 1), np.inf)
        grown = np.lexsort((from_middle, filled))[: min(short, int(np.isfinite(filled).sum()))]
        lengths[grown] += 1
    return lengths
