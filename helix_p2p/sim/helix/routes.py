"""Which way next: the paper's four schedulers, as choices among the ways out of a stage.

- max flow: interleaved weighted round robin; the way whose load after the request is least. Ways
  under 5 % of the stage's flow are left out.
- swarm: the way whose turn comes first; turns advance by a moving average of how long requests took
  over it (SWARM, Ryabinin et al. 2023, appendix C; weight 0.8 on the newest).
- random, shortest queue: among all ways, or those whose stage has the fewest requests waiting.

Always: a decode pass takes its prompt's route; ties go to the earlier way.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from random import Random

from helix_p2p.cluster.reference import NIC_BYTES_PER_S
from helix_p2p.sim.helix.parts import Query, Stage, Way

LEAST_FLOW_SHARE = 0.05
SWARM_FIRST_S = 0.05
SWARM_NEWEST = 0.8

Fits = Callable[[Stage, Query], bool]


class Scheduler(StrEnum):
    """The four that the paper compares."""

    MAX_FLOW = "max-flow"
    SWARM = "swarm"
    RANDOM = "random"
    SHORTEST_QUEUE = "shortest-queue"


def allot_by_flow(out: Sequence[Sequence[Way]]) -> None:
    """Give each way its share of both network cards, as its share of their flow."""
    into: dict[int, float] = {}
    for ways in out:
        for way in ways:
            key = -1 if way.target is None else way.target.index
            into[key] = into.get(key, 0.0) + way.flow * way.token_bytes
    for ways in out:
        sent = sum(way.flow * way.token_bytes for way in ways)
        for way in ways:
            used = way.flow * way.token_bytes
            key = -1 if way.target is None else way.target.index
            if used > 0:
                share = min(used / sent, used / into[key])
                way.allot(int(min(way.max_bandwidth, share * NIC_BYTES_PER_S)))


def allot_evenly(out: Sequence[Sequence[Way]]) -> None:
    """Give each way an equal share of its sender's network card."""
    for ways in out:
        for way in ways:
            way.allot(min(way.max_bandwidth, NIC_BYTES_PER_S / len(ways)))


def start_turns(out: Sequence[Sequence[Way]]) -> None:
    """Before the first request, each of swarm's ways is as good as the others."""
    for ways in out:
        for way in ways:
            way.turn = way.ema_s = SWARM_FIRST_S


def by_flow(ways: Sequence[Way], query: Query, fits: Fits) -> Way | None:
    """Interleaved weighted round robin among the ways that may be taken; charges the choice."""
    least = LEAST_FLOW_SHARE * sum(way.flow for way in ways)
    best: Way | None = None
    best_load = float("inf")
    for way in ways:
        if way.flow <= 0 or way.flow < least:
            continue
        if way.target is not None and not _takes(way.target, query, fits):
            continue
        load = way.load + query.input_tokens / way.flow
        if load < best_load:
            best, best_load = way, load
    if best is not None:
        best.load = best_load
    return best


def by_turn(ways: Sequence[Way], allowed: Sequence[Way] | None = None) -> Way | None:
    """Swarm's choice; moves its turn on."""
    among = ways if allowed is None else allowed
    if not among:
        return None
    best = among[0]
    for way in among:
        if way.turn < best.turn:
            best = way
    best.turn += best.ema_s
    return best


def shortest(ways: Sequence[Way]) -> list[Way]:
    """The ways to the shortest queues; the client side has none."""
    fewest = float("inf")
    found: list[Way] = []
    for way in ways:
        if way.target is None:
            return [*found, way]
        waiting = way.target.waiting()
        if waiting < fewest:
            fewest, found = waiting, [way]
        elif waiting == fewest:
            found.append(way)
    return found


def whole_route(
    scheduler: Scheduler, first: Sequence[Way], query: Query, fits: Fits, rng: Random
) -> list[Way] | None:
    """A route from the client side and back, stages that are too full left out.

    Returns:
        The ways in order, or None when some stage on the way has no successor with room; whatever
        max flow had charged by then is taken back.
    """
    route: list[Way] = []
    ways = first
    while True:
        if scheduler is Scheduler.MAX_FLOW:
            way = by_flow(ways, query, fits)
        else:
            allowed = [w for w in ways if w.target is None or _takes(w.target, query, fits)]
            way = _one_of(scheduler, allowed, rng)
        if way is None:
            if scheduler is Scheduler.MAX_FLOW:
                for charged in route:
                    charged.load -= query.input_tokens / charged.flow
            return None
        route.append(way)
        if way.target is None:
            return route
        ways = way.target.ways


def _one_of(scheduler: Scheduler, allowed: list[Way], rng: Random) -> Way | None:
    if not allowed:
        return None
    if scheduler is Scheduler.SWARM:
        return by_turn(allowed)
    if scheduler is Scheduler.SHORTEST_QUEUE:
        allowed = shortest(allowed)
    return allowed[rng.randrange(len(allowed))]


def _takes(stage: Stage, query: Query, fits: Fits) -> bool:
    return query.input_tokens <= stage.most_prompt_tokens and fits(stage, query)
