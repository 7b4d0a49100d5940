"""Validation: an honest plan passes; any field changed is refused, and for the right rule."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from helix_p2p.cluster.announcement import WORD_LIFE_S, content_of, open_announcement
from helix_p2p.cluster.snapshot import snapshot_of
from helix_p2p.errors import PlanRejected
from helix_p2p.identity import Signed
from helix_p2p.planning.plan import (
    Assignment,
    EdgeFlow,
    MinCut,
    Placement,
    Plan,
    Reference,
    SignedPlan,
)
from helix_p2p.planning.planner import PlanOptions, plan
from helix_p2p.planning.signed import open_plan, sign_plan
from helix_p2p.planning.validate import PlanRules, slot_of, validate
from helix_p2p.types import EPOCHS_PER_SLOT, Epoch, LayerRange, PeerId
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
TOO_LATE_S = RULES.announcement_age_s + WORD_LIFE_S + 50.0


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
    return open_plan(sign_plan(made, make_identity(signer), SWARM), SWARM)


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


def by_reference(made: Plan, **issued: float) -> tuple[SignedPlan, dict[bytes, Signed]]:
    """The same plan, carrying its planner's word alone; and the words of the others."""
    others = {content_of(record, SWARM): record for record in made.announcements[1:]}
    references = tuple(Reference(r.signer, content) for content, r in others.items())
    body = replace(made, announcements=made.announcements[:1], references=references, **issued)
    return signed(body), others


def test_plan_that_refers_to_announcements_is_judged_by_them() -> None:
    refers, others = by_reference(HONEST)
    validate(replace(refers, referred=others), RULES, NOW_UNIX_S)
    with pytest.raises(PlanRejected, match="not at hand"):
        validate(refers, RULES, NOW_UNIX_S)


def test_another_announcement_does_not_stand_for_the_one_referred_to() -> None:
    refers, others = by_reference(HONEST)
    record = next(iter(others.values()))
    number = next(n for n in range(9) if make_identity(n).peer_id == record.signer)
    richer = replace(open_announcement(record, SWARM), memory_bytes=10**15)
    forged = replace(record, signature=bytes(64))
    for wrong in (richer.signed(make_identity(number), SWARM), forged, HONEST.announcements[0]):
        swapped = {content: wrong if r is record else r for content, r in others.items()}
        with pytest.raises(PlanRejected) as caught:
            validate(replace(refers, referred=swapped), RULES, NOW_UNIX_S)
        assert caught.value.rule == "announcement"


def test_every_record_of_one_content_gives_the_same_verdict() -> None:
    refers, others = by_reference(HONEST)
    content, record = next(iter(others.items()))
    number = next(n for n in range(9) if make_identity(n).peer_id == record.signer)
    said = open_announcement(record, SWARM)
    for moved_s in (-440.0, -100.0, 100.0, 440.0):
        later = replace(
            said, sequence=said.sequence + 7, issued_unix_s=said.issued_unix_s + moved_s
        )
        copy = later.signed(make_identity(number), SWARM)
        if content_of(copy, SWARM) == content:
            validate(replace(refers, referred={**others, content: copy}), RULES, NOW_UNIX_S)
    late, words = by_reference(HONEST, issued_unix_s=NOW_UNIX_S + TOO_LATE_S)
    own = replace(
        open_announcement(HONEST.announcements[0], SWARM), issued_unix_s=NOW_UNIX_S + TOO_LATE_S
    ).signed(make_identity(0), SWARM)
    late = signed(replace(late.plan, announcements=(own,)))
    with pytest.raises(PlanRejected, match="s old"):
        validate(replace(late, referred=words), RULES, NOW_UNIX_S + TOO_LATE_S)
