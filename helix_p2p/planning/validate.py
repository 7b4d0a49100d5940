"""Whether a plan may be adopted: rechecked from the plan itself, the configuration and the clock.

Never from local membership, or honest peers that see different members would disagree for ever.
Everything is recomputed from the signed announcements that the plan carries or refers to by hash:
capacities, coverage, the flow and its cut, the bound, and the floor that no honest planner's plan
falls below (`floor`). Records of one content say the same, so it makes no difference which of them
a peer has at hand.

Always: one `PlanRejected` with the broken rule, or silence; milliseconds at hundreds of peers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from helix_p2p.cluster.announcement import (
    WORD_LIFE_S,
    Announcement,
    begun_unix_s,
    content_of,
    open_announcement,
)
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.snapshot import Snapshot, snapshot_of
from helix_p2p.errors import DecodeError, PlanRejected, RecordRejected, SignatureError
from helix_p2p.identity import Signed
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import Capacities, capacities_of
from helix_p2p.planning.coverage import Layout, coverage, layout_of
from helix_p2p.planning.estimate import estimate
from helix_p2p.planning.floor import floor_of
from helix_p2p.planning.flow import link_mtokens_per_s, route_flow
from helix_p2p.planning.plan import PLAN_KIND, EdgeFlow, Plan, Reference, SignedPlan
from helix_p2p.types import EPOCHS_PER_SLOT, SLOT_S, SLOTS_AHEAD, LayerRange, PeerId

HASH_BYTES = 32
WORD_CHARACTERS = 64
BOUND_PROOFS = frozenset({"prices", "sweep", "highs"})
TOLERANCE = 1e-6
"""Two machines may round a measured profile's last bit differently."""


def may_plan_by_word(_peer: PeerId, said: Announcement) -> bool:
    """The rule of an open swarm: whoever says so may plan."""
    return said.may_plan


@dataclass(frozen=True, slots=True)
class PlanRules:
    """What a plan is checked against.

    Attributes:
        model: The served model.
        swarm: Swarm id.
        may_plan: Whether a peer may plan, given its announcement (role certificates).
        may_serve: Whether a peer's announcement may be planned with.
        announcement_age_s: Announcements may be this much older than the plan.
        clock_skew_s: A plan or an announcement may be this far in the future.
    """

    model: ModelSpec
    swarm: str
    may_plan: Callable[[PeerId, Announcement], bool] = may_plan_by_word
    may_serve: Callable[[PeerId, Announcement], bool] | None = None
    announcement_age_s: float = 3600.0
    clock_skew_s: float = 60.0


def validate(signed: SignedPlan, rules: PlanRules, now_unix_s: float) -> None:
    """Check everything about a plan that can be checked.

    Args:
        signed: As `open_plan` gave it.
        rules: The swarm's configuration.
        now_unix_s: The local wall clock.

    Raises:
        PlanRejected: `rule` names what is broken: signature, epoch, model, announcement, planner,
            solver, assignment, memory, coverage, edge, capacity, conservation, value, cut, bound,
            greedy.
    """
    plan = signed.plan
    _check_header(signed, rules, now_unix_s)
    snapshot = _check_announcements(signed, rules)
    capacities = capacities_of(snapshot)
    layout = _check_assignments(plan, capacities)
    _check_flows(plan, snapshot, capacities)
    _check_certificate(plan, snapshot, capacities, layout)


def slot_of(unix_s: float) -> int:
    """The half minute that a wall clock shows."""
    return int(unix_s // SLOT_S)


def _check_header(signed: SignedPlan, rules: PlanRules, now_unix_s: float) -> None:
    plan = signed.plan
    try:
        signed.record.verify(kind=PLAN_KIND, swarm=rules.swarm)
        signer = signed.record.signer
    except SignatureError as error:
        raise PlanRejected("signature", str(error)) from error
    if signer != plan.planner:
        raise PlanRejected("signature", "it is signed by another peer than its planner")
    if plan.epoch < 0 or plan.epoch // EPOCHS_PER_SLOT > slot_of(now_unix_s) + SLOTS_AHEAD:
        raise PlanRejected("epoch", f"{plan.epoch} is ahead of the clock")
    if not plan.issued_unix_s <= now_unix_s + rules.clock_skew_s:
        raise PlanRejected("epoch", "it was issued in the future")
    if plan.manifest_hash != rules.model.manifest_hash:
        raise PlanRejected("model", "it is for another model")
    if len(plan.previous_hash) not in (0, HASH_BYTES):
        raise PlanRejected("epoch", "what it says to follow is no plan's hash")
    placement = plan.placement
    if len(placement.solver) > WORD_CHARACTERS or not 0 <= placement.solve_s < math.inf:
        raise PlanRejected("solver", "what it says of its solver makes no sense")


def _check_announcements(signed: SignedPlan, rules: PlanRules) -> Snapshot:
    plan = signed.plan
    said: dict[PeerId, Announcement] = {}
    for record in plan.announcements:
        _add_word(said, record, plan, rules)
    for reference in plan.references:
        referred = signed.referred.get(reference.content)
        if referred is None:
            raise PlanRejected("announcement", f"the word of {reference.peer} is not at hand")
        _add_word(said, referred, plan, rules, reference)
    planner = said.get(plan.planner)
    if planner is None or not rules.may_plan(plan.planner, planner):
        raise PlanRejected("planner", f"{plan.planner} may not plan")
    return snapshot_of(rules.model, said.items())


def _add_word(
    said: dict[PeerId, Announcement],
    record: Signed,
    plan: Plan,
    rules: PlanRules,
    reference: Reference | None = None,
) -> None:
    try:
        announcement = open_announcement(record, rules.swarm)
        peer, least_age_s, most_age_s = record.signer, -rules.clock_skew_s, rules.announcement_age_s
        issued_unix_s = announcement.issued_unix_s
        if reference is not None:
            if Reference(peer, content_of(record, rules.swarm)) != reference:
                raise PlanRejected("announcement", f"{reference.peer} said something else")
            # Of any record with this content: that is what everyone can agree about.
            issued_unix_s = begun_unix_s(record, rules.swarm)
            most_age_s += WORD_LIFE_S
    except (SignatureError, DecodeError, RecordRejected, ValueError) as error:
        raise PlanRejected("announcement", str(error)) from error
    if peer in said:
        raise PlanRejected("announcement", f"{peer} is announced twice")
    if announcement.manifest_hash != plan.manifest_hash:
        raise PlanRejected("announcement", f"{peer} serves another model")
    age_s = plan.issued_unix_s - issued_unix_s
    if not least_age_s <= age_s <= most_age_s:
        raise PlanRejected("announcement", f"the word of {peer} is {age_s:.0f} s old")
    if rules.may_serve is not None and not rules.may_serve(peer, announcement):
        raise PlanRejected("announcement", f"{peer} may not serve")
    said[peer] = announcement


def _check_assignments(plan: Plan, capacities: Capacities) -> Layout:
    assigned = [assignment.peer for assignment in plan.placement.assignments]
    if any(a >= b for a, b in pairwise(assigned)):
        raise PlanRejected("assignment", "peers must ascend, each once")
    for assignment in plan.placement.assignments:
        row = capacities.index.get(assignment.peer)
        if row is None:
            raise PlanRejected("assignment", f"{assignment.peer} has announced nothing usable")
        if assignment.layers.end > capacities.layers:
            raise PlanRejected("assignment", f"{assignment.layers} is beyond the last layer")
        if capacities.of(row, assignment.layers) <= 0:
            raise PlanRejected("memory", f"{assignment.layers} does not fit into {assignment.peer}")
    layout = layout_of(capacities, plan.placement.assignments)
    carried = coverage(capacities, layout)
    if int(carried.min()) <= 0:
        raise PlanRejected("coverage", f"nobody holds layer {int(carried.argmin())}")
    return layout


def _check_flows(plan: Plan, snapshot: Snapshot, capacities: Capacities) -> None:
    ranges = {a.peer: a.layers for a in plan.placement.assignments}
    into = dict.fromkeys(ranges, 0)
    out = dict.fromkeys(ranges, 0)
    entering = leaving = 0
    seen: set[tuple[PeerId | None, PeerId | None]] = set()
    for edge in plan.placement.flows:
        source, target, amount = edge.source, edge.target, edge.mtokens_per_s
        if amount <= 0 or (source, target) in seen or (source is None and target is None):
            raise PlanRejected("edge", f"{source} → {target} is empty or stated twice")
        seen.add((source, target))
        if any(end is not None and end not in ranges for end in (source, target)):
            raise PlanRejected("edge", f"{source} → {target} joins peers that hold nothing")
        if source is None:
            entering += amount
        else:
            out[source] += amount
        if target is None:
            leaving += amount
        else:
            into[target] += amount
        _check_edge(snapshot, ranges, edge)
    if into != out or entering != leaving:
        raise PlanRejected("conservation", "what flows into a peer must flow out of it")
    if entering != plan.placement.value_mtokens_per_s:
        raise PlanRejected("value", "the stated value is not what flows")
    for peer, amount in into.items():
        row = capacities.index[peer]
        if amount > capacities.of(row, ranges[peer]) * (1 + TOLERANCE) + 1:
            raise PlanRejected("capacity", f"{peer} would carry more than it can")


def _check_edge(snapshot: Snapshot, ranges: Mapping[PeerId, LayerRange], edge: EdgeFlow) -> None:
    source, target = edge.source, edge.target
    if source is None or target is None:
        legal = (source is None or ranges[source].end == snapshot.model.layers) and (
            target is None or ranges[target].start == 0
        )
    else:
        link, begin = snapshot.link(source, target), ranges[source].end
        legal = link is not None and 0 < ranges[target].start <= begin < ranges[target].end
        if link is not None:
            width = link_mtokens_per_s(link.bandwidth_bytes_per_s, snapshot.model.activation_bytes)
            if edge.mtokens_per_s > width * (1 + TOLERANCE) + 1:
                raise PlanRejected("capacity", f"the link {source} → {target} is thinner")
    if not legal:
        raise PlanRejected("edge", f"{source} → {target} does not join layer to layer")


def _check_certificate(
    plan: Plan, snapshot: Snapshot, capacities: Capacities, layout: Layout
) -> None:
    placement = plan.placement
    value = placement.value_mtokens_per_s
    most = route_flow(snapshot, capacities, layout).value_mtokens_per_s
    if abs(value - most) > most * TOLERANCE + 1:
        raise PlanRejected("value", f"the max flow is {most}, not {value}")
    size, parts = _cut_size(plan, snapshot, capacities)
    if abs(size - value) > value * TOLERANCE + parts:
        raise PlanRejected("cut", f"the stated cut carries {size}, the flow is {value}")
    bound = placement.bound_mtokens_per_s
    if placement.bound_proof not in BOUND_PROOFS:
        raise PlanRejected("bound", f"nobody knows the proof {placement.bound_proof[:40]!r}")
    try:
        proven = upper_bound(capacities, placement.prices)
    except (ValueError, OverflowError) as error:
        raise PlanRejected("bound", str(error)) from error
    # Other proofs take a search to repeat; they may only claim a lower bound than the prices give.
    least = proven * (1 - TOLERANCE) - 1 if placement.bound_proof == "prices" else value
    if not max(least, value) <= bound <= proven * (1 + TOLERANCE) + 1:
        raise PlanRejected("bound", f"{bound} is not what the prices prove, {proven}")
    served = estimate(snapshot, placement.assignments, placement.flows).throughput_tokens_per_s
    floor = floor_of(snapshot, capacities)
    if not floor.holds(value + 1, served * (1 + TOLERANCE)):
        simple = floor.flow_mtokens_per_s
        raise PlanRejected(
            "greedy",
            f"a simple greedy placement carries {simple} and serves {floor.served_tokens_per_s:.1f}"
            f" tokens/s, this one {value} and {served:.1f}",
        )


def _cut_size(plan: Plan, snapshot: Snapshot, capacities: Capacities) -> tuple[int, int]:
    """Capacity of the stated cut, and of how many parts it is."""
    ranges = {a.peer: a.layers for a in plan.placement.assignments}
    cut = plan.placement.min_cut
    if len(set(cut.peers)) != len(cut.peers) or len(set(cut.links)) != len(cut.links):
        raise PlanRejected("cut", "a part of the cut is stated twice")
    if not ranges.keys() >= set(cut.peers):
        raise PlanRejected("cut", "a peer in the cut holds nothing")
    if cut.layer is not None:
        holders = {peer for peer, held in ranges.items() if held.start <= cut.layer < held.end}
        if holders != set(cut.peers) or cut.links:
            raise PlanRejected("cut", f"its peers are not the holders of layer {cut.layer}")
    size = sum(capacities.of(capacities.index[peer], ranges[peer]) for peer in cut.peers)
    for source, target in cut.links:
        if source is None or target is None:
            raise PlanRejected("cut", "the clients' side is never in the cut")
        link = snapshot.link(source, target)
        if link is not None:
            size += link_mtokens_per_s(link.bandwidth_bytes_per_s, snapshot.model.activation_bytes)
    return size, len(cut.peers) + len(cut.links) + 1
