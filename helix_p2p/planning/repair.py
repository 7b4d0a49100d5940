"""The live plan mended at once: who survives stays, newcomers are placed, as few move as will do.

A search for the best plan moves almost everyone for a percent or two, and all that move load at the
same time. After a loss people wait; so first comes the nearest plan that serves, and the search
follows when there is time.

    live ranges of who is left ─▶ a layer without holder? whoever has it soonest takes it
                               ─▶ newcomers where most is short ─▶ single moves, the best one first

Always: deterministic; while every layer has a holder nobody who holds layers is moved unless the
plan gains by more than `LEAST_REPAIR_GAIN`; a model that the peers can hold is covered; what comes
out keeps the floor that validators ask for.
"""

from dataclasses import dataclass, field, replace
from random import Random

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import Cancelled
from helix_p2p.planning.appraisal import Appraiser, Finalist
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import Capacities, capacities_of
from helix_p2p.planning.coverage import Layout, layout_of, some_cover, value_of
from helix_p2p.planning.mending import Ground
from helix_p2p.planning.moves import fitted
from helix_p2p.planning.options import Objective, PlanOptions
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import SERVED_PEERS, plan
from helix_p2p.planning.recreate import Search, fetched_layers, greedy_baseline

LEAST_REPAIR_GAIN = 0.05
"""Under 5 % a move can wait for the search, which finds a better one."""

MOVES_PER_CHANGE, MOST_MOVES = 4, 40
"""Moves for each peer that came or went; more is a new plan, not a repair."""

AIMS = (1.0, 0.97, 0.94, 0.9)
"""Shares of what was carried before that a repair aims at. Too high an aim finds every layer short,
and no move helps; too low a one leaves the weakest as they are."""

NEARER_AIMS = (0.6, 0.3)
"""Then, from the best so far, parts of the way that is left."""

NEARLY_AS_GOOD = 0.02
"""Of repairs whose scores differ by less, the one that fetches least is taken."""

FILLING_SHARE = 0.9
"""Of what was carried before: what moves that fill holes aim at."""

MOST_FILLING = 8
"""Moves that may fill holes, before the layout is searched for."""

STEPS_OF_TIME = 16
"""Loading times that are tried for filling holes, from the shortest move to the longest."""

PATIENCE, PATIENCE_S = 1.25, 1.0
"""What serves sooner is better, but not if it is only this much sooner."""

SEARCHED_STEPS = 200
"""Of ruin and recreate where moves fill nothing, or too little for validators; 30 ms."""

CHEAPEST_PEERS = 300
"""Up to this many peers the flow is made the cheapest; it takes 0.1 s there."""

_DEFAULT = PlanOptions()


def repair(snapshot: Snapshot, live: Placement, options: PlanOptions = _DEFAULT) -> Placement:
    """The nearest plan to the live one that serves well.

    Args:
        snapshot: The swarm now.
        live: The plan in force; peers that are not in the snapshot are gone.
        options: Objective and seed; there is no search that a deadline would have to end.

    Returns:
        A valid placement over the peers of the snapshot.

    Raises:
        SwarmTooSmall: The peers together cannot hold the model.
        Cancelled: `options.cancelled` said so.
    """
    return _Repair(snapshot, live, options).placement()


def appraiser_of(
    snapshot: Snapshot, table: Capacities, live: Placement, options: PlanOptions
) -> Appraiser:
    """Of layouts that a live plan is to become."""
    return Appraiser(
        snapshot,
        table,
        Objective(options.objective),
        greedy_baseline(table, upper_bound(table)),
        live,
        options.payback_s,
        options.latency_weight,
    )


def placement_of(appraiser: Appraiser, chosen: Finalist, proof: Placement) -> Placement:
    """A layout as a placement, with the bound of another one of the same swarm."""
    if len(appraiser.capacities.peers) <= CHEAPEST_PEERS:
        chosen = appraiser.cheapest(chosen)
    return Placement(
        assignments=chosen.layout.assignments(appraiser.capacities),
        flows=chosen.routing.flows,
        value_mtokens_per_s=chosen.routing.value_mtokens_per_s,
        bound_mtokens_per_s=proof.bound_mtokens_per_s,
        min_cut=chosen.routing.min_cut,
        solver=chosen.name,
        solve_s=0.0,
        prices=proof.prices,
        bound_proof=proof.bound_proof,
    )


@dataclass
class _Repair:
    snapshot: Snapshot
    live: Placement
    options: PlanOptions
    capacities: Capacities = field(init=False)
    appraiser: Appraiser = field(init=False)
    bound: int = field(init=False)
    cover: Layout = field(init=False)
    held: Layout = field(init=False)
    ground: Ground = field(init=False)

    def __post_init__(self) -> None:
        self.capacities = capacities_of(self.snapshot)
        self.cover = some_cover(self.snapshot.model, self.capacities)
        self.bound = upper_bound(self.capacities, self.live.prices)
        self.appraiser = appraiser_of(self.snapshot, self.capacities, self.live, self.options)
        self.held = fitted(self.capacities, layout_of(self.capacities, self.live.assignments))
        self.ground = Ground(
            self.snapshot, self.capacities, self.held, self.bound, self.live.prices
        )

    def placement(self) -> Placement:
        whole = value_of(self.capacities, self.held) > 0
        found = self._mended(self.held) if whole else self._filled()
        chosen = self._chosen(found, whole) or self._chosen(self._searched(), whole=False)
        if chosen is None:  # links leave nothing that flows; a search looks for it
            return plan(self.snapshot, self.options, self.live)
        return placement_of(
            self.appraiser,
            chosen,
            replace(self.live, bound_mtokens_per_s=self.bound, bound_proof="prices"),
        )

    @property
    def most_moves(self) -> int:
        """So many peers may move, by how many came or went."""
        held = {assignment.peer for assignment in self.live.assignments}
        lost = len(held - self.capacities.index.keys())
        return min(MOST_MOVES, MOVES_PER_CHANGE * max(1, lost + len(self.ground.idle)))

    @property
    def aim(self) -> int:
        """Of the bound what the live plan carried of its own."""
        share = self.live.value_mtokens_per_s / max(1, self.live.bound_mtokens_per_s)
        return max(1, int(min(1.0, share) * self.bound))

    def _mended(self, start: Layout, within_s: float | None = None) -> list[Layout]:
        """From one layout: newcomers placed, then single moves."""
        ground, best, found = self.ground, start, [start]
        value = value_of(self.capacities, start)
        for part in AIMS:
            self._check()
            ground.start(start)
            ground.place(ground.idle, int(self.aim * part))
            found.append(ground.layout)
            if ground.value > value:
                best, value = found[-1], ground.value
            for _ in ground.moves(int(self.aim * part), self.most_moves, within_s):
                if ground.value > value:
                    best, value = ground.layout, ground.value
            found.append(best)
        if self._few:
            for part in NEARER_AIMS:
                ground.start(best)
                for _ in ground.moves(
                    value + int((self.aim - value) * part), self.most_moves, within_s
                ):
                    if ground.value > value:
                        best, value = ground.layout, ground.value
                found.append(best)
        return found

    def _filled(self) -> list[Layout]:
        """Layouts without holes, those that are loaded soonest."""
        soonest_s = self._soonest_s()
        if soonest_s is None:
            return []
        within_s = max(PATIENCE * soonest_s, soonest_s + PATIENCE_S)
        starts = [self._fill(limit_s) for limit_s in (soonest_s, within_s)]
        return [one for start in starts if start for one in self._mended(start, within_s)]

    def _soonest_s(self) -> float | None:
        """The shortest of a few times within which moves can fill every hole."""
        times = self.ground.times_s(STEPS_OF_TIME)
        if self._fill(times[-1]) is None:
            return None
        low, high = 0, len(times) - 1
        while low < high:
            middle = (low + high) // 2
            if self._fill(times[middle]) is None:
                low = middle + 1
            else:
                high = middle
        return times[high]

    def _fill(self, within_s: float) -> Layout | None:
        """The live layout after as few moves as fill every hole, each loaded by then."""
        self._check()
        ground = self.ground
        ground.start(self.held, filling=True)
        for _ in ground.moves(max(1, int(self.aim * FILLING_SHARE)), MOST_FILLING, within_s):
            if ground.value > 0:
                return ground.layout
        return None

    def _searched(self) -> list[Layout]:
        """Where a few moves do not help: what a short search finds, and what everyone computes."""
        search = Search(
            self.capacities,
            self.held,
            self.bound,
            Random(self.options.seed),
            held=self.held,
            move_penalty=self.ground.penalty,
            prices=self.live.prices,
        )
        for _ in range(SEARCHED_STEPS):
            self._check()
            search.step()
        both = (search.best, self.appraiser.baseline)
        found = [one for one in both if value_of(self.capacities, one) > 0]
        return found or [self.cover]

    def _chosen(self, layouts: list[Layout], whole: bool) -> Finalist | None:
        """The best legal one; nobody is moved where that gains too little."""
        distinct = {(one.starts.tobytes(), one.ends.tobytes()): one for one in layouts}
        finalists = [self.appraiser.finalist(one, "repair") for one in distinct.values()]
        ranked = self.appraiser.ranked(finalists)
        if not ranked:
            return None
        calm = [one for one in ranked if whole and self._fetched(one.layout) == 0]
        if calm and not self._gains(ranked[0], calm[0], LEAST_REPAIR_GAIN):
            # A second holder that adds no flow is what the next loss is repaired with.
            nearly = [one for one in calm if not self._gains(calm[0], one, NEARLY_AS_GOOD)]
            return min(nearly, key=lambda one: int((one.layout.ends == one.layout.starts).sum()))
        nearly = [one for one in ranked if not self._gains(ranked[0], one, NEARLY_AS_GOOD)]
        return min(nearly, key=lambda one: self._fetched(one.layout))

    def _gains(self, one: Finalist, other: Finalist, share: float) -> bool:
        """Whether one is better than the other by more than a share."""
        better, worse = self.appraiser.score(one)[0], self.appraiser.score(other)[0]
        return better > worse + share * abs(worse)

    def _fetched(self, layout: Layout) -> int:
        return int(fetched_layers(self.held, layout.starts, layout.ends).sum())

    @property
    def _few(self) -> bool:
        return len(self.capacities.peers) <= SERVED_PEERS

    def _check(self) -> None:
        if self.options.cancelled is not None and self.options.cancelled():
            raise Cancelled("planning was cancelled")
