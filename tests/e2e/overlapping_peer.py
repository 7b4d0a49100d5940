"""`helix-peer`, but its planner lets one range begin a layer early, where another peer still runs.

The real planner overlaps ranges when that pays; a test of pipelines that enter a peer mid-range
cannot wait for it. The plan is otherwise real, and every peer validates it.
"""

from dataclasses import replace

import helix_p2p.node.membership as driver
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.coverage import layout_of
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.planner import plan as real_plan
from helix_p2p.types import LayerRange
from helix_peer.cli import main


def overlapping(snapshot, options, live=None):
    made = real_plan(snapshot, options, live)
    later = [it for it in made.assignments if it.layers.start > 0]
    chosen = max(later, key=lambda it: it.layers.start)
    early = replace(chosen, layers=LayerRange(chosen.layers.start - 1, chosen.layers.end))
    assignments = tuple(early if it is chosen else it for it in made.assignments)
    capacities = capacities_of(snapshot)
    routing = route_flow(snapshot, capacities, layout_of(capacities, assignments))
    return replace(
        made,
        assignments=assignments,
        flows=routing.flows,
        value_mtokens_per_s=routing.value_mtokens_per_s,
        min_cut=routing.min_cut,
        solver="test",
    )


if __name__ == "__main__":
    driver.plan = overlapping
    main()
