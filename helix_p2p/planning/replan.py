"""From the live placement to another: what is fetched, what is not served meanwhile, what is left.

A peer that must hold new layers fetches them and serves less until it has; so a new placement is
worth its gain only over some time. When peers are lost, the flow that the others still carry is the
floor for whatever `repair` does next.

Always: pure functions of placements; a lost peer never appears in a repaired flow.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import Capacities, capacities_of
from helix_p2p.planning.coverage import layout_of
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.plan import Assignment, MinCut, Placement
from helix_p2p.types import LayerRange, PeerId

ASSUMED_DOWNLINK_BYTES_PER_S = 12.5e6
"""Of a peer that has not measured it: 100 Mb/s, a common home line."""

PAYBACK_S = 1800.0
"""A gain must repay its migration within half an hour; home peers stay for hours, not days."""

LEAST_GAIN = 0.02
"""Under 2 % is noise of the measurements; moving for it would never end."""


@dataclass(frozen=True, slots=True)
class Move:
    """One peer's change.

    Attributes:
        peer: Who.
        old: What it holds now, None for nothing.
        new: What it is to hold, None for nothing.
        fetched_layers: Layers of `new` that are not in `old`.
        fetched_bytes: Their weights.
        fetch_s: At its downlink.
    """

    peer: PeerId
    old: LayerRange | None
    new: LayerRange | None
    fetched_layers: int
    fetched_bytes: int
    fetch_s: float


@dataclass(frozen=True, slots=True)
class Migration:
    """All changes between two placements.

    Attributes:
        moves: In the order of the cut-over: first those that give up nothing that is still needed,
            shortest fetch first, so that coverage never falls below what both placements share.
        fetched_layers: By peers that already held some.
        fetched_bytes: By all.
        seconds: Until the last peer has fetched, all fetching at once.
    """

    moves: tuple[Move, ...]
    fetched_layers: int
    fetched_bytes: int
    seconds: float


def migration(snapshot: Snapshot, live: Placement, new: Placement) -> Migration:
    """What it takes to go from one placement to another."""
    held = {assignment.peer: assignment.layers for assignment in live.assignments}
    wanted = {assignment.peer: assignment.layers for assignment in new.assignments}
    profiles = {profile.peer: profile for profile in snapshot.peers}
    moves: list[Move] = []
    for peer in sorted(held.keys() | wanted.keys()):
        old, to = held.get(peer), wanted.get(peer)
        if old == to or peer not in profiles:
            continue
        fetched = _fetched(old, to)
        size = _fetched_bytes(snapshot, old, to, fetched)
        rate = profiles[peer].downlink_bytes_per_s or ASSUMED_DOWNLINK_BYTES_PER_S
        moves.append(Move(peer, old, to, fetched, size, size / rate))
    ordered = tuple(sorted(moves, key=lambda move: (_gives_up(move), move.fetch_s, move.peer)))
    return Migration(
        moves=ordered,
        fetched_layers=sum(move.fetched_layers for move in moves if move.old is not None),
        fetched_bytes=sum(move.fetched_bytes for move in moves),
        seconds=max((move.fetch_s for move in moves), default=0.0),
    )


def lost_tokens(
    snapshot: Snapshot, live: Placement, new: Placement, live_tokens_per_s: float
) -> float:
    """Answer tokens not served while peers that already held layers fetch others.

    A peer that fetches gives its share of the live service for as long as it fetches.
    """
    held_layers = sum(len(assignment.layers) for assignment in live.assignments)
    if held_layers == 0:
        return 0.0
    return sum(
        live_tokens_per_s * len(move.old) / held_layers * move.fetch_s
        for move in migration(snapshot, live, new).moves
        if move.old is not None and move.new is not None
    )


def repair_flows(
    snapshot: Snapshot,
    placement: Placement,
    lost: Collection[PeerId],
    capacities: Capacities | None = None,
) -> Placement:
    """The same placement without the lost peers, with the flow that is left.

    Args:
        snapshot: The swarm as it was planned, or as it is.
        placement: What is live.
        lost: Peers that are gone.
        capacities: Of the snapshot, where they are known already.

    Returns:
        The placement with its new max flow, 0 with no flows when a layer has no holder left. The
        bound stays: fewer peers never carry more.
    """
    table = capacities_of(snapshot) if capacities is None else capacities
    gone = set(lost)
    kept: tuple[Assignment, ...] = tuple(
        a for a in placement.assignments if a.peer not in gone and a.peer in table.index
    )
    layout = layout_of(table, kept)
    routing = route_flow(snapshot, table, layout)
    cut = routing.min_cut if routing.value_mtokens_per_s else MinCut(layer=routing.min_cut.layer)
    return replace(
        placement,
        assignments=kept,
        flows=routing.flows,
        value_mtokens_per_s=routing.value_mtokens_per_s,
        min_cut=cut,
        solver="repair",
        solve_s=0.0,
    )


def _fetched(old: LayerRange | None, new: LayerRange | None) -> int:
    if new is None:
        return 0
    return len(new) - (new.overlap(old) if old is not None else 0)


def _fetched_bytes(
    snapshot: Snapshot, old: LayerRange | None, new: LayerRange | None, layers: int
) -> int:
    if new is None:
        return 0
    model = snapshot.model
    size = layers * model.layer_bytes
    if new.start == 0 and (old is None or old.start != 0):
        size += model.embedding_bytes
    if new.end == model.layers and (old is None or old.end != model.layers):
        size += model.head_bytes
    return size


def _gives_up(move: Move) -> int:
    if move.old is None or move.new is None:
        return 0 if move.old is None else 2
    return 0 if move.new.contains(move.old) else 1
