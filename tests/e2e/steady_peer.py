"""`helix-peer`, but its planner gives peers the layer ranges that HELIX_TEST_RANGES names.

What the real planner holds once or twice, and where ranges overlap, depends on what is fastest; a
test of failover alone, or of pipelines that enter a peer mid-range, cannot wait for it.
`MB:start-end,…` gives the peers that lend so much memory a range. Where the named ranges do not
cover the model, the real planner plans. Every peer validates the plan as any other.
"""

import os
from dataclasses import replace

import helix_p2p.node.membership as driver
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.coverage import layout_of
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.plan import Assignment
from helix_p2p.planning.work import carry_out
from helix_p2p.types import LayerRange
from helix_peer.cli import main

RANGES = {
    int(memory): LayerRange(*(int(layer) for layer in layers.split("-")))
    for memory, layers in (item.split(":") for item in os.environ["HELIX_TEST_RANGES"].split(","))
}


def steady(work, snapshot, live, options):  # type: ignore[no-untyped-def]
    """The named ranges, with the max flow over them."""
    made = carry_out(work, snapshot, live, options)
    assignments = tuple(
        Assignment(peer.peer, layers)
        for peer in snapshot.peers
        for memory, layers in RANGES.items()
        if peer.memory_bytes in (memory * 10**6, memory * 10**6 // 2)
    )
    held = {layer for it in assignments for layer in range(it.layers.start, it.layers.end)}
    if len(held) < snapshot.model.layers:
        return made
    capacities = capacities_of(snapshot)
    routing = route_flow(snapshot, capacities, layout_of(capacities, assignments))
    return replace(
        made,
        assignments=assignments,
        flows=routing.flows,
        value_mtokens_per_s=routing.value_mtokens_per_s,
        min_cut=routing.min_cut,
        solver="steady",
    )


if __name__ == "__main__":
    driver.carry_out = steady  # type: ignore[attr-defined, assignment]
    main()
