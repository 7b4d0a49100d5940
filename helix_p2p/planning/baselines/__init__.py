"""The planners that ours is compared with, each with the shape of `planner.plan`.

`helix` and `helix-partial` are the paper's MILP, `petals` and `swarm` the rules it compares with,
`separate` one pipeline per GPU type. `--planner NAME` selects them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.baselines.helix import plan_helix, plan_helix_partial
from helix_p2p.planning.baselines.petals import plan_petals
from helix_p2p.planning.baselines.separate import plan_separate
from helix_p2p.planning.baselines.swarm import plan_swarm
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import OnProgress, PlanOptions

Planner = Callable[[Snapshot, PlanOptions, Placement | None, OnProgress | None], Placement]

BASELINES: Mapping[str, Planner] = MappingProxyType(
    {
        "helix": plan_helix,
        "helix-partial": plan_helix_partial,
        "petals": plan_petals,
        "swarm": plan_swarm,
        "separate": plan_separate,
    }
)
"""By the name that `--planner` takes."""

__all__ = ["BASELINES", "Planner"]
