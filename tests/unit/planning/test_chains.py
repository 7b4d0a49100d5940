"""Chains as finalists: everything held once per chain, evenly, and nothing where nothing fits."""

import numpy as np

from helix_p2p.cluster.reference import reference_snapshot
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.chains import chain_layouts
from helix_p2p.planning.coverage import coverage, value_of
from helix_p2p.planning.planner import PlanOptions, plan
from helix_p2p.planning.regions import kind_split


def test_equal_peers_share_the_layers_evenly() -> None:
    capacities = capacities_of(reference_snapshot("single24", "30b", only_kind="L4", mix="l4x8"))
    (chain,) = chain_layouts(capacities, [])
    assert (chain.ends - chain.starts).tolist() == [7, 7, 8, 8, 8, 8, 7, 7], "ends hold more"
    assert value_of(capacities, chain) > 0


def test_every_kind_gets_its_own_chains() -> None:
    snapshot = reference_snapshot("single24", "30b")
    capacities = capacities_of(snapshot)
    split = kind_split(snapshot, capacities)
    for layout in chain_layouts(capacities, [split]):
        carried = capacities.of_layout(layout.starts, layout.ends)
        assert (carried[layout.ends > layout.starts] > 0).all()
        assert coverage(capacities, layout).min() > 0
    last = chain_layouts(capacities, [split])[-1]
    for rows in split:
        held = np.zeros(capacities.layers, dtype=np.int64)
        for row in rows:
            held[last.starts[row] : last.ends[row]] += 1
        assert len(set(held.tolist())) == 1, "every kind holds every layer equally often"


def test_a_swarm_too_small_has_no_chain() -> None:
    capacities = capacities_of(reference_snapshot("single24", "70b", only_kind="A100"))
    assert chain_layouts(capacities, []) == [] or capacities.longest.max(axis=1).sum() >= 80


def test_planning_for_service_finds_the_chain_of_equal_peers() -> None:
    snapshot = reference_snapshot("single24", "30b", only_kind="L4", mix="l4x8")
    found = plan(snapshot, PlanOptions(steps=60))
    assert {len(a.layers) for a in found.assignments} <= {6, 7, 8, 9}
    assert len(found.assignments) == 8
