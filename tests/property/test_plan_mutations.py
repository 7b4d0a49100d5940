"""A malicious planner changes one field of a good plan, at any depth, and signs the result.

Every field is walked, so one that is added later is tried as well: those of the plan, and those of
the bytes as they are signed (`packing`). What may be changed without being refused is listed by
name and is either for people to read, or bounded to a window (epoch, time), or another way to say
the same. The plan carries some announcements and refers to the others.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import msgspec
import pytest

from helix_p2p import codec
from helix_p2p.cluster.announcement import LinkMeasurement, content_of, open_announcement
from helix_p2p.cluster.snapshot import snapshot_of
from helix_p2p.errors import HelixError
from helix_p2p.identity import Signed
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.packing import encode_plan
from helix_p2p.planning.plan import PLAN_KIND, PLAN_LIMIT_BYTES, Plan, Reference, SignedPlan
from helix_p2p.planning.planner import PlanOptions, plan
from helix_p2p.planning.signed import open_plan
from helix_p2p.planning.validate import TOLERANCE, PlanRules, slot_of, validate
from helix_p2p.types import EPOCHS_PER_SLOT, Epoch
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
PLANNER = make_identity(0)
Path = tuple[str | int, ...]
CARRIED = 3
REFERRED: dict[bytes, Signed] = {}

FREE = {
    "previous_hash": "any hash: what it follows is for people, the order is by epoch",
    "epoch": "within its slots",
    "solver": "any short word",
    "solve_s": "any time",
}
"""What a planner may say as it likes, within bounds: nobody acts on it but to order plans."""


@cache
def honest(links: bool) -> Plan:
    """A plan of six peers, with or without thin links that bind."""
    random = Random(5)
    memories = [random.randrange(400_000_000, 900_000_000) for _ in range(6)]
    said = make_announcements(MODEL, memories, seed=5)
    if links:
        peers = [identity.peer_id for identity, _ in said]
        said = [
            (
                identity,
                replace(
                    one,
                    links=tuple(
                        LinkMeasurement(other, 0.02, random.choice([2e4, 4e4, 8e4]))
                        for other in peers
                        if other != identity.peer_id
                    ),
                ),
            )
            for identity, one in said
        ]
    snapshot = snapshot_of(MODEL, [(identity.peer_id, one) for identity, one in said])
    placement = plan(snapshot, PlanOptions(steps=40))
    bound = upper_bound(capacities_of(snapshot), placement.prices)
    records = signed_all(said)
    REFERRED.update({content_of(record, SWARM): record for record in records[CARRIED:]})
    return Plan(
        epoch=Epoch(EPOCHS_PER_SLOT * slot_of(NOW_UNIX_S)),
        planner=PLANNER.peer_id,
        previous_hash=bytes(32),
        manifest_hash=MODEL.manifest_hash,
        issued_unix_s=NOW_UNIX_S,
        announcements=records[:CARRIED],
        placement=replace(placement, bound_mtokens_per_s=bound, bound_proof="prices"),
        references=tuple(Reference(r.signer, content_of(r, SWARM)) for r in records[CARRIED:]),
    )


def packed(body: dict[str, Any]) -> bytes:
    """The bytes of a changed plan, or of changed columns.

    Raises:
        ValueError: Such a plan cannot be written.
        DecodeError: It is none.
    """
    if "placement" not in body:
        return codec.encode(body)
    return encode_plan(codec.decode(codec.encode(body), Plan, limit_bytes=PLAN_LIMIT_BYTES))


def sign(body: dict[str, Any]) -> SignedPlan:
    signed = open_plan(PLANNER.sign(PLAN_KIND, SWARM, packed(body)), SWARM)
    return replace(signed, referred=REFERRED)


def accepted(body: dict[str, Any]) -> bool:
    """Whether peers would adopt what the planner signed."""
    try:
        validate(sign(body), RULES, NOW_UNIX_S)
    except (HelixError, ValueError):
        return False
    return True


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field at every depth, containers included."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))


def changes(value: Any) -> Iterator[Any]:
    """Other values of the same kind, and one of another kind."""
    match value:
        case bool():
            yield not value
        case int():
            yield from (value + 1000, value - 1000, -value - 1, value * 3 + 7, 0, 2**63 - 1)
        case float():
            yield from (float("nan"), float("inf"), -1e18, 1e18)
        case str():
            yield from (value + "x", value[::-1] + "y", "")
        case bytes():
            yield from (value + b"\0", value[:-1] + bytes([(value or b"\0")[-1] ^ 1]), b"")
        case list():
            yield []
            if value:
                yield from (value[1:], value[:-1], [*value, value[0]], [value[-1], *value])
        case dict():
            for name in value:
                yield {key: inner for key, inner in value.items() if key != name}
        case None:
            yield from (0, "x", [])
    yield {"of": "another kind"}


def put(body: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(body)
    at: Any = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return changed


def name_of(path: Path) -> str:
    return ".".join("[]" if isinstance(step, int) else step for step in path)


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def means_the_same(body: dict[str, Any], as_: Plan) -> bool:
    """A field may be absent where it has a default, a cut need not name its layer, other prices may
    prove the same bound, and what a peer holds that carries nothing is the planner's to say or to
    leave out."""
    try:
        said = sign(body).plan
    except (HelixError, ValueError):
        return False
    unnamed = replace(as_.placement.min_cut, layer=None)
    if said in (as_, replace(as_, placement=replace(as_.placement, min_cut=unnamed))):
        return True
    if prove_the_same(said, as_):
        return True
    held = {a.peer: a for a in said.placement.assignments}
    if len(held) != len(said.placement.assignments):
        return False
    carrying = {end for edge in as_.placement.flows for end in (edge.source, edge.target)}
    kept = tuple(a for a in as_.placement.assignments if a.peer in carrying)
    if any(held.get(a.peer) != a for a in kept):
        return False
    mended = replace(said.placement, assignments=as_.placement.assignments)
    return replace(said, placement=mended) == as_


def prove_the_same(said: Plan, as_: Plan) -> bool:
    """Whether only the prices differ, and the bound that follows from them does not."""
    placement = as_.placement
    if replace(said, placement=replace(said.placement, prices=placement.prices)) != as_:
        return False
    words = [*as_.announcements, *(REFERRED[r.content] for r in as_.references)]
    snapshot = snapshot_of(MODEL, [(r.signer, open_announcement(r, SWARM)) for r in words])
    try:
        bound = upper_bound(capacities_of(snapshot), said.placement.prices)
    except ValueError:
        return False
    return abs(bound - placement.bound_mtokens_per_s) <= TOLERANCE * bound + 1


@pytest.mark.parametrize("form", ["fields", "columns"])
@pytest.mark.parametrize("links", [False, True], ids=["coverage", "thin-links"])
def test_every_changed_field_of_a_plan_is_refused(links: bool, form: str) -> None:
    plan_ = honest(links)
    body = msgspec.msgpack.decode(encode_plan(plan_) if form == "columns" else codec.encode(plan_))
    assert accepted(body)
    tried: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for path, value in leaves(body):
        name = name_of(path).removeprefix("placement.")
        for other in changes(value):
            changed = put(body, path, other)
            if same(other, value) or means_the_same(changed, plan_):
                continue
            tried[name] += 1
            if accepted(changed):
                passed[name] += 1
    print({name: f"{tried[name] - passed[name]}/{tried[name]}" for name in tried})
    assert set(passed) <= FREE.keys(), dict(passed)
    fields = {"epoch", "planner", "manifest_hash", "announcements.[].body", "prices"}
    there = {"keys", "contents", "flows"} if form == "columns" else {"references.[].content"}
    assert fields | there <= tried.keys()
    if links:
        assert plan_.placement.min_cut.links, "the swarm is to have links that bind"


@pytest.mark.parametrize("proof", ["sweep", "highs"])
def test_bound_that_a_search_proved_is_never_above_what_the_prices_prove_nor_below_the_flow(
    proof: str,
) -> None:
    """Nobody repeats the search, so this much is a claim, and it decides nothing."""
    placement = honest(links=False).placement
    value, proven = placement.value_mtokens_per_s, placement.bound_mtokens_per_s
    assert value < proven

    def claim(bound: int) -> bool:
        claimed = replace(placement, bound_mtokens_per_s=bound, bound_proof=proof)
        changed = replace(honest(links=False), placement=claimed)
        return accepted(msgspec.msgpack.decode(codec.encode(changed)))

    assert claim(value)
    assert claim(proven)
    assert not claim(value - 1)
    assert not claim(proven + 100)
