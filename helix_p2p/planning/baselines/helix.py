"""Helix's own planner: its MILP, pruned to the fastest links and started from a heuristic.

As the artifact does (ASPLOS 2025, §4.5): only each peer's 12 fastest links stay, the solver starts
from the best heuristic placement, and what it has at the deadline is taken. The artifact solves
with Gurobi; here it is HiGHS, which is free.

Always: a solver that dies or finds nothing leaves the heuristic's placement, and its name says so.
"""

from collections.abc import Callable, Mapping

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import Cancelled, SolverError, SwarmTooSmall
from helix_p2p.planning.baselines.finish import finished, stopwatch
from helix_p2p.planning.baselines.milp import (
    Milp,
    Start,
    build,
    rates_of,
    snapped,
    start_values,
    ways_of,
)
from helix_p2p.planning.baselines.petals import petals_layout
from helix_p2p.planning.baselines.swarm import swarm_layout
from helix_p2p.planning.capacity import MTOKENS, Capacities, capacities_of
from helix_p2p.planning.coverage import layout_of
from helix_p2p.planning.highs import MilpSolution, solve
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import OnProgress, PlanOptions, Progress

LINKS_KEPT = 12
"""Of each peer, as in the paper (§4.5, "cluster pruning")."""

Solver = Callable[..., MilpSolution]
"""As `highs.solve`."""

PEERS_LIMIT = 300
"""It has a flow and a binary for every pair; the paper's largest cluster has 42 peers."""

DEADLINE_S = 60.0
"""Where none is given."""


def plan_helix(
    snapshot: Snapshot,
    options: PlanOptions,
    live: Placement | None = None,
    on_progress: OnProgress | None = None,
) -> Placement:
    """Helix's MILP without partial inference, as every published placement was made."""
    return plan_milp(snapshot, options, live, on_progress, partial=False)


def plan_helix_partial(
    snapshot: Snapshot,
    options: PlanOptions,
    live: Placement | None = None,
    on_progress: OnProgress | None = None,
) -> Placement:
    """Helix's MILP with partial inference; both raise as `plan_milp`."""
    return plan_milp(snapshot, options, live, on_progress, partial=True)


def plan_milp(
    snapshot: Snapshot,
    options: PlanOptions,
    live: Placement | None,
    on_progress: OnProgress | None,
    *,
    partial: bool,
    solver: Solver = solve,
) -> Placement:
    """Helix's MILP, with or without partial inference, by any solver.

    Raises:
        SwarmTooSmall: The peers together cannot hold the model.
        SolverError: There are more than `PEERS_LIMIT` peers.
        Cancelled: `options.cancelled` said so.
    """
    elapsed_s = stopwatch(options)
    deadline_s = DEADLINE_S if options.deadline_s is None else options.deadline_s
    capacities = capacities_of(snapshot)
    name = "helix-partial" if partial else "helix"
    rows = [r for r in range(len(capacities.peers)) if len(rates_of(capacities, r)) > 1]
    if not rows:
        raise SwarmTooSmall(total_peers=len(snapshot.peers))
    if len(rows) > PEERS_LIMIT:
        raise SolverError(f"Helix's MILP is for up to {PEERS_LIMIT} peers, not {len(rows)}")
    begun = _start(snapshot, capacities, rows, live, partial=partial)
    keep = LINKS_KEPT if len(rows) > LINKS_KEPT + 1 else None
    ways = ways_of(snapshot, rows, keep=keep, also=begun.used if begun is not None else ())
    milp = build(capacities, rows, ways, partial=partial)
    values = _complete(milp, begun.values) if begun is not None else None

    def cancelled() -> bool:
        return options.cancelled is not None and options.cancelled()

    def told(incumbent: float | None, bound: float | None) -> None:
        if on_progress is not None and bound is not None and bound < 1e12:
            found = round((incumbent or 0.0) * MTOKENS)
            on_progress(Progress("HiGHS", found, round(bound * MTOKENS), 0, elapsed_s()))

    def over() -> bool:
        return cancelled() or (options.clock is not None and elapsed_s() >= deadline_s)

    proven: int | None = None
    try:
        found = solver(
            milp.problem,
            max(0.1, deadline_s - elapsed_s()),
            start=values,
            on_bound=told,
            stop=over,
        )
    except SolverError as error:
        name = f"{name} (start only: {error.message})"
    else:
        if found.values and (found.objective or 0.0) > 0:
            values = dict(found.values)
        elif values is not None:
            name = f"{name} (start only: HiGHS found nothing in time)"
        # A bound for exact joins or pruned links is none for what our flow may do.
        if found.bound is not None and partial and keep is None:
            proven = round(found.bound * MTOKENS)
    if cancelled():
        raise Cancelled("planning was cancelled")
    if values is None:
        raise SwarmTooSmall(
            f"{name} has no placement: neither the solver nor a heuristic covers every layer",
            total_peers=len(snapshot.peers),
            usable_peers=len(rows),
        )
    held = milp.layout(values, rows, len(capacities.peers))
    return finished(snapshot, capacities, held, name, elapsed_s(), on_progress, proven)


def _start(
    snapshot: Snapshot,
    capacities: Capacities,
    rows: list[int],
    live: Placement | None,
    *,
    partial: bool,
) -> Start | None:
    """The best heuristic placement as a solution of the MILP over all ways."""
    rates = tuple(rates_of(capacities, row) for row in rows)
    whole = Milp(None, rates, ways_of(snapshot, rows), partial, capacities.layers)
    layouts = [petals_layout(snapshot, capacities), swarm_layout(snapshot, capacities)]
    if live is not None:
        layouts.append(layout_of(capacities, live.assignments))
    best: Start | None = None
    for layout in layouts:
        starts = [int(layout.starts[row]) for row in rows]
        ends = [int(layout.ends[row]) for row in rows]
        for begin, end in ((starts, ends), snapped(whole, starts, ends)):
            made = start_values(whole, begin, end)
            least = 0.0 if best is None else best.objective
            if made is not None and made.objective > least:
                best = made
    return best


def _complete(milp: Milp, values: Mapping[str, float]) -> dict[str, float]:
    """The values of the variables that pruning left."""
    return {variable.name: values[variable.name] for variable in milp.problem.variables()}
