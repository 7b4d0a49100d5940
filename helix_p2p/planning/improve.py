"""From the live plan towards a better one, a few peers at a time.

A search from the live plan finds one that serves more. It is followed only where it gains clearly,
and in stages: all that move at once load at once, and what they gave up is served by nobody.

    live ─▶ search ─▶ gains more than LEAST_IMPROVEMENT? ─▶ its changes, the most useful one first
         ─▶ the longest row of them that moves few and leaves enough served meanwhile

Always: each stage is a plan that every peer adopts, and better than the one before or one in which
peers that held nothing got layers, so the stages come to an end; no layer is without a holder
meanwhile, unless that pays several times over.
"""

from collections.abc import Iterator

import numpy as np

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.appraisal import Appraiser, Finalist
from helix_p2p.planning.capacity import Capacities, Ints, capacities_of
from helix_p2p.planning.coverage import Layout, coverage, layout_of, value_of
from helix_p2p.planning.moves import fitted
from helix_p2p.planning.options import PlanOptions
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import plan
from helix_p2p.planning.recreate import fetched_layers
from helix_p2p.planning.repair import appraiser_of, placement_of, repair
from helix_p2p.planning.replan import LEAST_GAIN, migration

LEAST_IMPROVEMENT = 0.05
"""Of what is served. Estimates tell plans apart within a few percent; and each move costs."""

STAGE_SHARE, LEAST_MOVING = 0.1, 2
"""Peers that load at the same time: a tenth of all, or two."""

SERVED_MEANWHILE = 0.5
"""Of what the live plan carries, while those that move are loading."""

PATIENCE_FOR_ALL = 4.0
"""What nobody serves while it is loaded weighs so many times what is won later: people wait."""

MOST_CHANGES = 300
"""Looked at one after another; 0.1 s at 1000 peers. After so many comes the goal at once."""

MOST_APPRAISED = 8
"""Stages that are appraised; 20 ms each at 1000 peers."""

_DEFAULT = PlanOptions()


def improve(snapshot: Snapshot, live: Placement, options: PlanOptions = _DEFAULT) -> Placement:
    """Search from a live plan, and take the first stage towards what was found.

    Args:
        snapshot: The swarm now.
        live: The plan in force.
        options: How long to search, and for what.

    Returns:
        The next plan; the live one, repaired, where nothing gains enough.

    Raises:
        SwarmTooSmall: The peers together cannot hold the model.
        Cancelled: `options.cancelled` said so.
    """
    goal = plan(snapshot, options, live)
    staged = stage(snapshot, live, goal, options)
    return repair(snapshot, live, options) if staged is None else staged


def stage(
    snapshot: Snapshot, live: Placement, goal: Placement, options: PlanOptions = _DEFAULT
) -> Placement | None:
    """The first few changes on the way from one plan to another; None where it does not pay."""
    table = capacities_of(snapshot)
    held = fitted(table, layout_of(table, live.assignments))
    wanted = layout_of(table, goal.assignments)
    appraiser = appraiser_of(snapshot, table, live, options)
    now = appraiser.finalist(held, "")
    if value_of(table, held) <= 0:
        return None
    best = appraiser.finalist(wanted, goal.solver)
    if not _gains(appraiser, best, now, LEAST_IMPROVEMENT):
        return None
    most = max(LEAST_MOVING, int(STAGE_SHARE * len(table.peers)))
    least_served = int(SERVED_MEANWHILE * value_of(table, held))
    rows = list(_rows(table, held, wanted, least_served))
    few = [one for one in rows if _movers(held, one) <= most]
    for one in (*_some(few[::-1]), *_some(rows[len(few) :])):
        if value_of(table, meanwhile(table, held, one)) < least_served:
            continue
        next_one = appraiser.finalist(one, f"stage of {goal.solver}")
        least = -LEAST_GAIN if _only_places(held, one) else LEAST_GAIN
        if appraiser.legal(next_one) and _gains(appraiser, next_one, now, least):
            return placement_of(appraiser, next_one, goal)
    waiting_s = PATIENCE_FOR_ALL * migration(snapshot, live, goal).seconds
    if _gains(appraiser, best, now, waiting_s / options.payback_s):
        return placement_of(appraiser, best, goal)
    return None


def meanwhile(table: Capacities, held: Layout, wanted: Layout) -> Layout:
    """What is surely served while those that move are loading.

    Who can hold old and new layers together serves the old ones until everyone is there; who cannot
    gives up first what it is not to keep.
    """
    starts, ends = held.starts.copy(), held.ends.copy()
    low, high = np.minimum(starts, wanted.starts), np.maximum(ends, wanted.ends)
    touching = (wanted.starts <= ends) & (starts <= wanted.ends) & (wanted.ends > wanted.starts)
    both = touching & (table.of_layout(low, high) > 0)
    kept_from = np.maximum(starts, wanted.starts)
    kept_to = np.minimum(ends, wanted.ends)
    gone = ~both & (kept_to <= kept_from)
    starts = np.where(both, starts, np.where(gone, 0, kept_from))
    ends = np.where(both, ends, np.where(gone, 0, kept_to))
    return Layout(starts, ends)


def _rows(table: Capacities, held: Layout, wanted: Layout, least_served: int) -> Iterator[Layout]:
    """Layouts on the way, one peer's change after another.

    First the changes that leave enough served meanwhile, as long as there are such; of those the
    one after which layers are short of least.
    """
    left = np.flatnonzero((held.starts != wanted.starts) | (held.ends != wanted.ends))
    starts, ends = held.starts.copy(), held.ends.copy()
    covered = coverage(table, held)
    aim = value_of(table, wanted)
    before = table.of_layout(held.starts, held.ends)
    after = table.of_layout(wanted.starts, wanted.ends)
    at = np.arange(table.layers)
    changes = _spread(wanted, after, left, at) - _spread(held, before, left, at)
    served = coverage(table, held)
    during = meanwhile(table, held, wanted)
    kept = table.of_layout(during.starts, during.ends)
    losses = _spread(held, before, left, at) - _spread(during, kept, left, at)
    for _ in range(MOST_CHANGES):
        if not left.size:
            return
        short = np.maximum(0, aim - (covered + changes)).sum(axis=1)
        hurts = (served - losses).min(axis=1) < least_served
        pick = int(np.lexsort((short, hurts))[0])
        row = int(left[pick])
        covered, served = covered + changes[pick], served - losses[pick]
        starts[row], ends[row] = wanted.starts[row], wanted.ends[row]
        left = np.delete(left, pick)
        changes, losses = np.delete(changes, pick, axis=0), np.delete(losses, pick, axis=0)
        yield Layout(starts.copy(), ends.copy())
    yield wanted


def _spread(layout: Layout, carried: Ints, rows: Ints, at: Ints) -> Ints:
    """[rows, L]: what each of some peers carries in each layer."""
    holds = (at >= layout.starts[rows, None]) & (at < layout.ends[rows, None])
    spread: Ints = np.where(holds, carried[rows, None], 0)
    return spread


def _only_places(held: Layout, layout: Layout) -> bool:
    """Whether all that changes is that peers without layers get some."""
    changed = (held.starts != layout.starts) | (held.ends != layout.ends)
    return not bool((changed & (held.ends > held.starts)).any())


def _movers(held: Layout, layout: Layout) -> int:
    return int((fetched_layers(held, layout.starts, layout.ends) > 0).sum())


def _some(layouts: list[Layout]) -> list[Layout]:
    """The first, the last, and a few between."""
    if len(layouts) <= MOST_APPRAISED:
        return layouts
    at = np.linspace(0, len(layouts) - 1, MOST_APPRAISED).round().astype(int)
    return [layouts[int(number)] for number in at]


def _gains(appraiser: Appraiser, one: Finalist, other: Finalist, share: float) -> bool:
    better, worse = appraiser.score(one)[0], appraiser.score(other)[0]
    return better > worse + share * abs(worse)
