"""What a layout is worth: its flow, what it would serve, what it costs to get there.

One place decides which of two placements is better, so that searches, finalists and the judge agree
on what is legal and what is sought.

Always: pure; a layout that falls below the floor validators keep (`floor`) is never preferred to
one that does not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import MTOKENS, Capacities
from helix_p2p.planning.cheapest import cheapest_flow
from helix_p2p.planning.coverage import Layout, layout_of
from helix_p2p.planning.estimate import NOT_ESTIMATED, Estimate, estimate
from helix_p2p.planning.floor import PLANNERS_MARGIN, Floor
from helix_p2p.planning.flow import Routing, route_flow
from helix_p2p.planning.options import LATENCY_WEIGHT, Objective
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.recreate import fetched_layers
from helix_p2p.planning.replan import LEAST_GAIN, PAYBACK_S, lost_tokens

FLOW_EXPONENT = 0.05
"""Ten percent of flow weigh half a percent of throughput: flow is what holds when requests are not
as assumed."""


@dataclass(frozen=True)
class Finalist:
    """A layout with its flow.

    Attributes:
        layout: The ranges.
        routing: The flow over them, of the largest value.
        estimate: What it would serve; nothing where only flow is asked for.
        name: The search it came from.
    """

    layout: Layout
    routing: Routing
    estimate: Estimate
    name: str


def served_score(
    tokens_per_s: float, token_s: float, latency_weight: float = LATENCY_WEIGHT
) -> float:
    """Throughput, less what waiting takes away; 0 where nothing is served."""
    if tokens_per_s <= 0:
        return 0.0
    score: float = tokens_per_s * (1 + token_s) ** -latency_weight
    return score


@dataclass
class Appraiser:
    """The judge of layouts in one run of the planner.

    Args:
        snapshot: The swarm.
        capacities: Its table.
        objective: What is to be best.
        baseline: The greedy layout everyone can compute.
        live: What is served now.
        payback_s: Within which a migration must pay.
        latency_weight: How much waiting counts against throughput.
    """

    snapshot: Snapshot
    capacities: Capacities
    objective: Objective
    baseline: Layout
    live: Placement | None = None
    payback_s: float = PAYBACK_S
    latency_weight: float = LATENCY_WEIGHT
    greedy: Finalist = field(init=False)
    floor: Floor = field(init=False)
    held: Layout | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.live is not None:
            self.held = layout_of(self.capacities, self.live.assignments)
        self.greedy = self.finalist(self.baseline, "greedy")
        served = self.greedy.estimate.throughput_tokens_per_s
        self.floor = Floor(self.greedy.routing.value_mtokens_per_s, served)

    def finalist(self, layout: Layout, name: str) -> Finalist:
        """A layout with its largest flow."""
        routing = route_flow(self.snapshot, self.capacities, layout)
        return self._estimated(layout, routing, name)

    def cheapest(self, one: Finalist) -> Finalist:
        """The same layout, its flow over the nearest hops; the better of both."""
        routing = cheapest_flow(self.snapshot, self.capacities, one.layout, known=one.routing)
        other = self._estimated(one.layout, routing, one.name)
        if self.objective is Objective.FLOW:
            return other
        return max(one, other, key=self.score)

    def ranked(self, finalists: Iterable[Finalist]) -> list[Finalist]:
        """Those that are legal, best first."""
        return sorted((one for one in finalists if self.legal(one)), key=self.score, reverse=True)

    def legal(self, one: Finalist) -> bool:
        """Whether validators would take it."""
        served = one.estimate.throughput_tokens_per_s
        return self.floor.holds(one.routing.value_mtokens_per_s, served, PLANNERS_MARGIN)

    def score(self, one: Finalist) -> tuple[float, float]:
        """By the objective; a tie is for the flow."""
        flow = one.routing.value_mtokens_per_s / MTOKENS
        if flow == 0:
            return (float("-inf"), 0.0)
        moved = self.moving_costs(one)
        match self.objective:
            case Objective.FLOW:
                return (flow - moved, 0.0)
            case Objective.LATENCY:
                return (-one.estimate.light_token_s * (1 + moved / flow), flow)
            case Objective.THROUGHPUT:
                rate, token_s = one.estimate.throughput_tokens_per_s, one.estimate.token_s
                share = one.routing.value_mtokens_per_s / max(1, self.floor.flow_mtokens_per_s)
                served = served_score(rate, token_s, self.latency_weight)
                return ((served - moved) * share**FLOW_EXPONENT, flow)

    def service_of(self, layout: Layout) -> float:
        """The score of a layout with its plain flow; minus infinity where it is not legal."""
        one = self.finalist(layout, "")
        return self.score(one)[0] if self.legal(one) else float("-inf")

    def moving_costs(self, one: Finalist) -> float:
        """Tokens per second that the migration costs, spread over the payback time."""
        held, layout = self.held, one.layout
        if self.live is None or held is None:
            return 0.0
        fetched = int(fetched_layers(held, layout.starts, layout.ends).sum())
        if fetched == 0:
            return 0.0
        proposed = Placement(
            assignments=layout.assignments(self.capacities),
            flows=(),
            value_mtokens_per_s=0,
            bound_mtokens_per_s=0,
            min_cut=one.routing.min_cut,
            solver="",
            solve_s=0.0,
        )
        rate = one.estimate.throughput_tokens_per_s
        if self.objective is Objective.FLOW:
            rate = one.routing.value_mtokens_per_s / MTOKENS
        lost = lost_tokens(self.snapshot, self.live, proposed, rate) / self.payback_s
        # A fifth of all layers and more must bring the least gain that is worth anything.
        share = fetched / max(1, int((held.ends - held.starts).sum()))
        return max(lost, LEAST_GAIN * rate * min(1.0, 5 * share))

    def _estimated(self, layout: Layout, routing: Routing, name: str) -> Finalist:
        if self.objective is Objective.FLOW:
            return Finalist(layout, routing, NOT_ESTIMATED, name)
        guess = estimate(self.snapshot, layout.assignments(self.capacities), routing.flows)
        return Finalist(layout, routing, guess, name)
