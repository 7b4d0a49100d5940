"""Placements that cross between regions once: one region holds the end, each other one a beginning.

Where regions are joined by long or thin links every crossing costs a cycle its latency and lets a
prompt block the link for as long as a second. If no region holds the whole model, one crossing is
the least; then one region, the hub, takes the layers from a border on, and every other region holds
all layers before it for itself.

Always: deterministic; every layout covers every layer. They are starts for the search on service,
not finished placements.
"""

import numpy as np

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import SwarmTooSmall
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import FIRST, LAST, MIDDLE, WHOLE, Capacities, Ints
from helix_p2p.planning.coverage import Layout, some_cover, value_of
from helix_p2p.planning.recreate import greedy
from helix_p2p.planning.regions import groups_of


def hub_layouts(snapshot: Snapshot, capacities: Capacities) -> list[Layout]:
    """Every region as the hub; nothing where there is but one region.

    Two borders each: as late as the others can hold what comes before, and half-way from there to
    as early as the hub can hold the rest.
    """
    found = []
    for groups in groups_of(snapshot):
        for number, hub in enumerate(groups):
            others = [rows for n, rows in enumerate(groups) if n != number]
            reach = min(_holds(capacities, rows) for rows in others)
            latest = min(reach, capacities.layers - 1)
            earliest = max(1, capacities.layers - _holds(capacities, hub))
            if latest < earliest:
                continue
            for border in sorted({latest, (latest + earliest) // 2}):
                layout = _around(snapshot, capacities, hub, others, border)
                if layout is not None:
                    found.append(layout)
    return found


def _holds(capacities: Capacities, rows: Ints) -> int:
    return int(capacities.longest[rows].max(axis=1).sum())


def _around(
    snapshot: Snapshot, capacities: Capacities, hub: Ints, others: list[Ints], border: int
) -> Layout | None:
    count = len(capacities.peers)
    starts, ends = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    parts = [(rows, 0, _before(capacities, rows, border)) for rows in others]
    parts.append((hub, border, _from(capacities, hub, border)))
    for rows, begin, part in parts:
        layout = greedy(part, upper_bound(part))
        if value_of(part, layout) <= 0:
            try:
                layout = some_cover(snapshot.model, part)
            except SwarmTooSmall:
                return None
        held = layout.ends > layout.starts
        starts[rows] = np.where(held, layout.starts + begin, 0)
        ends[rows] = np.where(held, layout.ends + begin, 0)
    layout = Layout(starts, ends)
    return layout if value_of(capacities, layout) > 0 else None


def _before(capacities: Capacities, rows: Ints, border: int) -> Capacities:
    """The table of some peers over the layers before a border, which is no end of the model."""
    table = capacities.mtokens_per_s[rows, :, : border + 1]
    return _cut(capacities, rows, border, {LAST: table[:, MIDDLE], WHOLE: table[:, FIRST]}, table)


def _from(capacities: Capacities, rows: Ints, border: int) -> Capacities:
    layers = capacities.layers - border
    table = capacities.mtokens_per_s[rows, :, : layers + 1]
    return _cut(capacities, rows, layers, {FIRST: table[:, MIDDLE], WHOLE: table[:, LAST]}, table)


def _cut(
    capacities: Capacities, rows: Ints, layers: int, columns: dict[int, Ints], table: Ints
) -> Capacities:
    cut = table.copy()
    for place, column in columns.items():
        cut[:, place] = column
    lengths = np.arange(layers + 1)
    cut[:, MIDDLE, lengths > layers - 2] = 0
    cut[:, FIRST, lengths > layers - 1] = 0
    cut[:, LAST, lengths > layers - 1] = 0
    cut[:, WHOLE, lengths < layers] = 0
    return Capacities(layers, tuple(capacities.peers[int(row)] for row in rows), cut)
