"""Helix's own planner: its MILP, pruned to the fastest links and started from a heuristic.

As the artifact does (ASPLOS 2025, §4.5): only each peer's 12 fastest links stay, the solver starts
from the best heuristic placement, and what it has at the deadline is taken. The artifact solves
with Gurobi; here it is HiGHS, which is free.

Always: a solver that dies or finds nothing leaves the heuristic's placement, and its name says so.
"""

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import Cancelled, SolverError, SwarmTooSmall
from helix_p2p.planning.baselines.finish import finished, stopwatch
from helix_p2p.planning.baselines.milp import Milp, build, rates_of, snapped, start_values, ways_of
from helix_p2p.planning.baselines.petals import petals_layout
from helix_p2p.planning.baselines.swarm import swarm_layout
from helix_p2p.planning.capacity import MTOKENS, Capacities, capacities_of
from helix_p2p.planning.coverage import Layout, layout_of
from helix_p2p.planning.highs import solve
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import OnProgress, PlanOptions, Progress

LINKS_KEPT = 12
"""Of each peer, as in the paper (§4.5, "cluster pruning")."""

DEADLINE_S = 60.0
"""Where none is given."""


def plan_helix(
    snapshot: Snapshot,
    options: PlanOptions,
    live: Placement | None = None,
    on_progress: OnProgress | None = None,
) -> Placement:
    """Helix's MILP without partial inference, as every published placement was made.

    Raises:
        SwarmTooSmall: The peers together cannot hold the model.
        Cancelled: `options.cancelled` said so.
    """
    return _plan(snapshot, options, live, on_progress, partial=False)


def plan_helix_partial(
    snapshot: Snapshot,
    options: PlanOptions,
    live: Placement | None = None,
    on_progress: OnProgress | None = None,
) -> Placement:
    """Helix's MILP with partial inference.

    Raises:
        SwarmTooSmall: The peers together cannot hold the model.
        Cancelled: `options.cancelled` said so.
    """
    return _plan(snapshot, options, live, on_progress, partial=True)


def _plan(
    snapshot: Snapshot,
    options: PlanOptions,
    live: Placement | None,
    on_progress: OnProgress | None,
    *,
    partial: bool,
) -> Placement:
    elapsed_s = stopwatch(options)
    deadline_s = DEADLINE_S if options.deadline_s is None else options.deadline_s
    capacities = capacities_of(snapshot)
    name = "helix-partial" if partial else "helix"
    rows = [r for r in range(len(capacities.peers)) if len(rates_of(capacities, r)) > 1]
    if not rows:
        raise SwarmTooSmall(total_peers=len(snapshot.peers))
    keep = LINKS_KEPT if len(rows) > LINKS_KEPT + 1 else None
    milp = build(capacities, rows, ways_of(snapshot, rows, keep=keep), partial=partial)
    begun = _start(milp, capacities, rows, live)
    held = begun[0] if begun is not None else None

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
        found = solve(
            milp.problem,
            max(0.1, deadline_s - elapsed_s()),
            start=begun[1] if begun is not None else None,
            on_bound=told,
            stop=over,
        )
    except SolverError as error:
        name = f"{name} (start only: {error.message})"
    else:
        if found.values:
            held = milp.layout(found.values, rows, len(capacities.peers))
        elif begun is not None:
            name = f"{name} (start only: HiGHS found nothing in time)"
        # A bound for exact joins or pruned links is none for what our flow may do.
        if found.bound is not None and partial and keep is None:
            proven = round(found.bound * MTOKENS)
        if found.status == "infeasible":
            held = None
    if cancelled():
        raise Cancelled("planning was cancelled")
    if held is None:
        raise SwarmTooSmall(
            f"{name} has no placement: neither the solver nor a heuristic covers every layer",
            total_peers=len(snapshot.peers),
            usable_peers=len(rows),
        )
    return finished(snapshot, capacities, held, name, elapsed_s(), on_progress, proven)


def _start(
    milp: Milp, capacities: Capacities, rows: list[int], live: Placement | None
) -> tuple[Layout, dict[str, float]] | None:
    """The best heuristic placement as a solution of the MILP."""
    layouts = [petals_layout(capacities), swarm_layout(capacities)]
    if live is not None:
        layouts.append(layout_of(capacities, live.assignments))
    best: tuple[float, Layout, dict[str, float]] | None = None
    for layout in layouts:
        starts = [int(layout.starts[row]) for row in rows]
        ends = [int(layout.ends[row]) for row in rows]
        for begin, end in ((starts, ends), snapped(milp, starts, ends)):
            made = start_values(milp, begin, end)
            if made is not None and made[0] > 0 and (best is None or made[0] > best[0]):
                best = (made[0], milp.layout(made[1], rows, len(capacities.peers)), made[1])
    return None if best is None else (best[1], best[2])
