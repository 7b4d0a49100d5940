"""Plans as bytes: the same plan back, small, and nothing that is no plan."""

from dataclasses import replace
from random import Random

import msgspec
import pytest

from helix_p2p import codec
from helix_p2p.errors import DecodeError
from helix_p2p.identity import peer_id_of
from helix_p2p.planning.packing import decode_plan, encode_plan
from helix_p2p.planning.plan import (
    PLAN_LIMIT_BYTES,
    Assignment,
    EdgeFlow,
    MinCut,
    Placement,
    Plan,
    Reference,
)
from helix_p2p.types import MOST_EDGES, MOST_PEERS, Epoch, LayerRange

from .swarms import make_announcements, make_model, signed_all

RECORDS = signed_all(make_announcements(make_model(), [10**9, 2 * 10**9]))


def large_plan(peers: int, edges: int) -> Plan:
    random = Random(3)
    names = sorted(peer_id_of(random.randbytes(32)) for _ in range(peers - len(RECORDS)))
    carried = [record.signer for record in RECORDS]
    everyone = sorted([*carried, *names])
    placement = Placement(
        assignments=tuple(Assignment(p, LayerRange(i % 90, 100)) for i, p in enumerate(everyone)),
        flows=tuple(
            EdgeFlow(random.choice([None, *carried]), random.choice(everyone), 2**40 + i)
            for i in range(edges)
        ),
        value_mtokens_per_s=2**40,
        bound_mtokens_per_s=2**41,
        min_cut=MinCut((everyone[0],), ((None, everyone[1]), (everyone[1], None)), 7),
        solver="beam",
        solve_s=1.5,
        prices=tuple(range(100)),
    )
    return Plan(
        epoch=Epoch(64),
        planner=carried[0],
        previous_hash=bytes(32),
        manifest_hash="ab" * 32,
        issued_unix_s=1.0,
        announcements=RECORDS,
        placement=placement,
        references=tuple(Reference(name, random.randbytes(24)) for name in names),
    )


def test_plan_comes_back_from_its_bytes() -> None:
    plan = large_plan(20, 40)
    assert decode_plan(encode_plan(plan)) == plan
    unannounced = replace(plan, announcements=(), references=())
    assert decode_plan(encode_plan(unannounced)) == unannounced


def test_ten_thousand_peers_fit_into_a_plan() -> None:
    plan = large_plan(MOST_PEERS, 2 * MOST_PEERS)
    data = encode_plan(plan)
    assert len(data) <= PLAN_LIMIT_BYTES
    assert decode_plan(data) == plan


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("flows", lambda column: column[:-1]),
        ("flows", lambda column: b"\x77\x77" + column[2:]),
        ("flows", lambda column: column * MOST_EDGES),
        ("assignments", lambda column: column + b"\xff\xff\x00\x00\x01\x00"),
        ("assignments", lambda column: column[:2] + b"\x05\x00\x05\x00" + column[6:]),
        ("keys", lambda column: column[:-1]),
        ("keys", lambda column: column[:-32]),
        ("contents", lambda column: column + b"x"),
        ("cut_links", lambda column: column + b"x"),
    ],
)
def test_columns_that_do_not_fit_are_one_typed_error(column: str, change: object) -> None:
    tree = msgspec.msgpack.decode(encode_plan(large_plan(20, 40)))
    tree[column] = change(tree[column])  # type: ignore[operator]
    with pytest.raises(DecodeError):
        decode_plan(codec.encode(tree))
