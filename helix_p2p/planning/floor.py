"""What a plan must be worth at least: planners keep to it, and validators refuse what falls short.

The measure is a simple greedy placement that everyone can compute. A plan is worth adopting if its
flow is nearly the greedy one's, or if it is estimated to serve as many tokens and its flow is not a
small part of it. Flow alone would refuse the plans that serve most: on the paper's single cluster
with Llama 2 70B the largest flow serves 220 tokens/s, half of that flow serves 290.

Always: pure; computed from the plan and the snapshot alone, so that honest peers agree. A planner
asks for a little more than a validator, since both round.
"""

from dataclasses import dataclass

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import Capacities
from helix_p2p.planning.estimate import estimate
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.recreate import greedy_baseline

FLOW_SHARE = 0.9
"""Of the greedy flow: enough, whatever is estimated."""

LEAST_FLOW_SHARE = 0.25
"""Of the greedy flow: an estimate excuses no less."""

SERVED_SHARE = 0.95
"""Of what the greedy placement is estimated to serve."""

PLANNERS_MARGIN = 1.02
"""What a planner asks for besides: announcements are rounded differently on other machines."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The greedy placement's figures.

    Attributes:
        flow_mtokens_per_s: Its max flow.
        served_tokens_per_s: What it is estimated to serve.
    """

    flow_mtokens_per_s: int
    served_tokens_per_s: float

    def holds(
        self, flow_mtokens_per_s: int, served_tokens_per_s: float, margin: float = 1.0
    ) -> bool:
        """Whether a placement is worth adopting.

        Args:
            flow_mtokens_per_s: Its max flow.
            served_tokens_per_s: What it is estimated to serve; only read where the flow is low.
            margin: A planner's is above 1.
        """
        if flow_mtokens_per_s <= 0:
            return False
        flow = flow_mtokens_per_s / max(1, self.flow_mtokens_per_s)
        if flow >= FLOW_SHARE * margin:
            return True
        enough = 0 < served_tokens_per_s >= SERVED_SHARE * margin * self.served_tokens_per_s
        return enough and flow >= LEAST_FLOW_SHARE * margin


def floor_of(snapshot: Snapshot, capacities: Capacities) -> Floor:
    """The floor of a swarm."""
    layout = greedy_baseline(capacities, upper_bound(capacities))
    routing = route_flow(snapshot, capacities, layout)
    served = estimate(snapshot, layout.assignments(capacities), routing.flows)
    return Floor(routing.value_mtokens_per_s, served.throughput_tokens_per_s)
