"""Validation: an honest plan passes; any field changed is refused, and for the right rule."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from helix_p2p import codec
from helix_p2p.cluster.snapshot import snapshot_of
from helix_p2p.errors import PlanRejected
from helix_p2p.planning.plan import (
    PLAN_KIND,
    Assignment,
    EdgeFlow,
    MinCut,
    Placement,
    Plan,
    SignedPlan,
    open_plan,
)
from helix_p2p.planning.planner import PlanOptions, plan
from helix_p2p.planning.validate import EPOCHS_PER_SLOT, PlanRules, slot_of, validate
from helix_p2p.types import Epoch, LayerRange, PeerId
from tests.unit.planning.swarms import (
    NOW_UNIX_S,
    SWARM,
    make_announcements,
    make_identity,
    make_model,
    signed_all,
)

MODEL = make_model()
RULES = PlanRules(MODEL, SWARM)


def make_plan(count: int = 6, seed: int = 1) -> Plan:
    random = Random(seed)
    said = make_announcements(
        MODEL, [random.randrange(400_000_000, 2_000_000_000) for _ in range(count)], seed
    )
    snapshot = snapshot_of(MODEL, [(identity.peer_id, a) for identity, a in said])
    return Plan(
        epoch=Epoch(EPOCHS_PER_SLOT * slot_of(NOW_UNIX_S)),
        planner=make_identity(0).peer_id,
        previous_hash=b"",
        manifest_hash=MODEL.manifest_hash,
        issued_unix_s=NOW_UNIX_S,
        announcements=signed_all(said),
        placement=plan(snapshot, PlanOptions(steps=40)),
    )


def signed(made: Plan, signer: int = 0) -> SignedPlan:
    record = make_identity(signer).sign(PLAN_KIND, SWARM, codec.encode(made))
    return open_plan(record, SWARM)


HONEST = make_plan()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [3, 8])
def test_honest_plan_passes(count: int, seed: int) -> None:
    validate(signed(make_plan(count, seed)), RULES, NOW_UNIX_S)


def with_placement(**changes: object) -> Plan:
    return replace(HONEST, placement=replace(HONEST.placement, **changes))  # type: ignore[arg-type]


def shifted(placement: Placement, by: int) -> tuple[EdgeFlow, ...]:
    first, *rest = placement.flows
    return (replace(first, mtokens_per_s=first.mtokens_per_s + by), *rest)


def doubled(edges: tuple[EdgeFlow, ...]) -> tuple[EdgeFlow, ...]:
    return tuple(replace(edge, mtokens_per_s=2 * edge.mtokens_per_s) for edge in edges)


P = HONEST.placement
CHANGES: list[tuple[str, Callable[[], Plan]]] = [
    ("epoch", lambda: replace(HONEST, epoch=Epoch(HONEST.epoch + 3 * EPOCHS_PER_SLOT))),
    ("epoch", lambda: replace(HONEST, issued_unix_s=NOW_UNIX_S + 3600)),
    ("epoch", lambda: replace(HONEST, issued_unix_s=float("nan"))),
    ("model", lambda: replace(HONEST, manifest_hash="cd" * 32)),
    ("signature", lambda: replace(HONEST, planner=make_identity(1).peer_id)),
    ("planner", lambda: replace(HONEST, announcements=HONEST.announcements[1:])),
    (
        "announcement",
        lambda: replace(HONEST, announcements=(*HONEST.announcements, HONEST.announcements[1])),
    ),
    ("announcement", lambda: replace(HONEST, issued_unix_s=NOW_UNIX_S - 4000)),
    (
        "announcement",
        lambda: replace(
            HONEST,
            announcements=(
                *HONEST.announcements[:-1],
                replace(HONEST.announcements[-1], signature=bytes(64)),
            ),
        ),
    ),
    ("assignment", lambda: with_placement(assignments=P.assignments[::-1])),
    ("assignment", lambda: with_placement(assignments=(*P.assignments, P.assignments[-1]))),
    (
        "assignment",
        lambda: with_placement(
            assignments=(*P.assignments, Assignment(PeerId("zzz"), LayerRange(0, 1)))
        ),
    ),
    (
        "assignment",
        lambda: with_placement(
            assignments=(
                *P.assignments[:-1],
                replace(P.assignments[-1], layers=LayerRange(20, 25)),
            )
        ),
    ),
    ("coverage", lambda: with_placement(assignments=P.assignments[:1])),
    ("edge", lambda: with_placement(flows=(*P.flows, P.flows[0]))),
    ("edge", lambda: with_placement(flows=(*P.flows, EdgeFlow(None, None, 5)))),
    ("conservation", lambda: with_placement(flows=shifted(P, 5))),
    ("conservation", lambda: with_placement(flows=P.flows[1:])),
    ("value", lambda: with_placement(value_mtokens_per_s=P.value_mtokens_per_s + 100)),
    (
        "capacity",
        lambda: with_placement(
            flows=doubled(P.flows), value_mtokens_per_s=2 * P.value_mtokens_per_s
        ),
    ),
    ("cut", lambda: with_placement(min_cut=MinCut())),
    ("cut", lambda: with_placement(min_cut=replace(P.min_cut, peers=P.min_cut.peers[1:]))),
    ("bound", lambda: with_placement(bound_mtokens_per_s=P.value_mtokens_per_s - 100)),
    ("bound", lambda: with_placement(bound_mtokens_per_s=2 * P.bound_mtokens_per_s)),
    ("bound", lambda: with_placement(prices=(1,) * 5)),
    ("bound", lambda: with_placement(prices=(-1, *(1,) * 23))),
    ("bound", lambda: with_placement(prices=(0,) * 24)),
]


@pytest.mark.parametrize(("rule", "change"), CHANGES)
def test_changed_plan_is_refused(rule: str, change: Callable[[], Plan]) -> None:
    with pytest.raises(PlanRejected) as caught:
        validate(signed(change()), RULES, NOW_UNIX_S)
    assert caught.value.rule == rule


def test_plan_of_another_signer_is_refused() -> None:
    with pytest.raises(PlanRejected) as caught:
        validate(signed(HONEST, signer=1), RULES, NOW_UNIX_S)
    assert caught.value.rule == "signature"


def test_range_beyond_memory_is_refused() -> None:
    small = min(
        range(len(HONEST.placement.assignments)),
        key=lambda i: len(HONEST.placement.assignments[i].layers),
    )
    changed = tuple(
        replace(a, layers=LayerRange(0, 24)) if i == small else a
        for i, a in enumerate(HONEST.placement.assignments)
    )
    said = make_announcements(MODEL, [400_000_000] * 8)
    snapshot = snapshot_of(MODEL, [(identity.peer_id, a) for identity, a in said])
    made = plan(snapshot, PlanOptions(steps=20))
    first = replace(made.assignments[0], layers=LayerRange(0, 24))
    crowded = replace(made, assignments=(first, *made.assignments[1:]))
    with pytest.raises(PlanRejected) as caught:
        validate(
            signed(replace(HONEST, announcements=signed_all(said), placement=crowded)),
            RULES,
            NOW_UNIX_S,
        )
    assert caught.value.rule == "memory"
    assert changed


def test_plan_far_below_the_greedy_baseline_is_refused() -> None:
    said = make_announcements(MODEL, [1_600_000_000] * 6, seed=3)
    snapshot = snapshot_of(MODEL, [(identity.peer_id, a) for identity, a in said])
    good = plan(snapshot, PlanOptions(steps=20))
    only = plan(snapshot_of(MODEL, [(i.peer_id, a) for i, a in said[:1]]), PlanOptions(steps=5))
    lazy = replace(
        only,
        bound_mtokens_per_s=good.bound_mtokens_per_s,
        prices=good.prices,
        bound_proof=good.bound_proof,
    )
    with pytest.raises(PlanRejected) as caught:
        validate(
            signed(replace(HONEST, announcements=signed_all(said), placement=lazy)),
            RULES,
            NOW_UNIX_S,
        )
    assert caught.value.rule == "greedy"


def test_planner_without_the_right_to_plan_is_refused() -> None:
    rules = replace(RULES, may_plan=lambda _peer, _said: False)
    with pytest.raises(PlanRejected) as caught:
        validate(signed(HONEST), rules, NOW_UNIX_S)
    assert caught.value.rule == "planner"
