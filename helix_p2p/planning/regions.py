"""Regions: groups of peers that are near each other, found from latencies.

When each region can hold the whole model, a placement per region keeps every hop short, and the
flows simply add up. Peers are grouped around medoids, and a number of groups is kept only if every
group can cover the model.

Always: a partition of all peers; deterministic. Peers nobody measured count as far from everyone.
Source: k-medoids by alternation (Park and Jun 2009), started from the farthest points.
"""

import numpy as np

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import SwarmTooSmall
from helix_p2p.planning.capacity import Capacities, Floats, Ints
from helix_p2p.planning.coverage import some_cover

ASSUMED_LATENCY_S = 0.05
MOST_REGIONS = 8


def latencies(snapshot: Snapshot) -> Floats:
    """[peers, peers]: one-way seconds, the mean of both ways, 0 on the diagonal."""
    index = {profile.peer: row for row, profile in enumerate(snapshot.peers)}
    usual = ASSUMED_LATENCY_S if snapshot.default_link is None else snapshot.default_link.latency_s
    found = np.full((len(index), len(index)), usual)
    for (source, target), link in snapshot.links.items():
        i, j = index.get(source), index.get(target)
        if i is not None and j is not None:
            found[i, j] = link.latency_s
    both: Floats = (found + found.T) / 2
    np.fill_diagonal(both, 0.0)
    return both


def groups_of(snapshot: Snapshot) -> list[list[Ints]]:
    """Ways to split a swarm into regions, few regions first.

    Named regions of the profiles come as they are; else 2, 3, … groups are found from latencies.
    """
    splits: list[list[Ints]] = []
    names = sorted({profile.region for profile in snapshot.peers if profile.region is not None})
    if len(names) > 1 and all(profile.region is not None for profile in snapshot.peers):
        splits.append(
            [
                np.array(
                    [row for row, profile in enumerate(snapshot.peers) if profile.region == name],
                    dtype=np.int64,
                )
                for name in names
            ]
        )
    elif snapshot.links:
        away = latencies(snapshot)
        most = min(MOST_REGIONS, len(snapshot.peers) // 2)
        splits = [_grouped(away, number) for number in range(2, most + 1)]
    return [split for split in splits if len(split) > 1]


def region_splits(snapshot: Snapshot, capacities: Capacities) -> list[list[Ints]]:
    """Ways to split a swarm into regions that can each hold the whole model, few regions first."""
    return [
        split
        for split in groups_of(snapshot)
        if all(_covers(snapshot, capacities, rows) for rows in split)
    ]


def kind_split(snapshot: Snapshot, capacities: Capacities) -> list[Ints]:
    """Peers by hardware, where each kind can hold the whole model; else nothing.

    Pipelines of equal peers have no slow stage, as Helix found for Llama 30B.
    """
    kinds = sorted({profile.kind for profile in snapshot.peers})
    split = [
        np.array([row for row, p in enumerate(snapshot.peers) if p.kind == kind], dtype=np.int64)
        for kind in kinds
    ]
    whole = len(split) > 1 and all(_covers(snapshot, capacities, rows) for rows in split)
    return split if whole else []


def part_of(capacities: Capacities, rows: Ints) -> Capacities:
    """The table of some peers."""
    peers = tuple(capacities.peers[int(row)] for row in rows)
    return Capacities(capacities.layers, peers, capacities.mtokens_per_s[rows])


def _covers(snapshot: Snapshot, capacities: Capacities, rows: Ints) -> bool:
    try:
        some_cover(snapshot.model, part_of(capacities, rows))
    except SwarmTooSmall:
        return False
    return True


def _grouped(away: Floats, number: int) -> list[Ints]:
    medoids = [int(away.sum(axis=1).argmin())]
    while len(medoids) < number:
        medoids.append(int(away[:, medoids].min(axis=1).argmax()))
    for _ in range(20):
        nearest = away[:, medoids].argmin(axis=1)
        fresh = []
        for group in range(number):
            rows = np.flatnonzero(nearest == group)
            if rows.size == 0:
                fresh.append(medoids[group])
                continue
            fresh.append(int(rows[away[np.ix_(rows, rows)].sum(axis=1).argmin()]))
        if fresh == medoids:
            break
        medoids = fresh
    nearest = away[:, medoids].argmin(axis=1)
    groups = [np.flatnonzero(nearest == group).astype(np.int64) for group in range(number)]
    return [rows for rows in groups if rows.size]
