"""A node's status crosses as JSON and comes back as it was; what is no status is refused."""

import json
from dataclasses import replace

import pytest

from helix_p2p.errors import DecodeError
from helix_p2p.identity import Identity
from helix_p2p.node.status import (
    MemberStatus,
    NodeStatus,
    decode_status,
    encode_status,
    plan_status,
)
from helix_p2p.planning.plan import (
    Assignment,
    EdgeFlow,
    MinCut,
    Placement,
    Plan,
)
from helix_p2p.planning.signed import open_plan, sign_plan
from helix_p2p.types import Epoch, LayerRange

STATUS = NodeStatus("peer", "me", "swarm", True, "tiny", "ab", 8, "serving", holds=(0, 4))


def test_status_survives_the_way_as_json() -> None:
    full = replace(STATUS, members=(MemberStatus("you", "standby", serving=(4, 8), rtt_s=0.01),))
    assert decode_status(encode_status(full)) == full
    assert json.loads(encode_status(full))["holds"] == [0, 4]


def test_newer_status_with_more_to_say_is_still_read() -> None:
    said = json.loads(encode_status(STATUS)) | {"mood": "good"}
    assert decode_status(json.dumps(said).encode()) == STATUS


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"role": 1}', b" " * 9_000_000])
def test_what_is_no_status_is_one_typed_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_status(data)


def test_plan_is_shown_in_the_order_of_layers_with_its_proof() -> None:
    planner = Identity(bytes(32))
    a, b = sorted((planner.peer_id, Identity(bytes([1] * 32)).peer_id))
    placement = Placement(
        assignments=(Assignment(a, LayerRange(4, 8)), Assignment(b, LayerRange(0, 4))),
        flows=(EdgeFlow(None, b, 1500), EdgeFlow(b, a, 1500), EdgeFlow(a, None, 1500)),
        value_mtokens_per_s=1500,
        bound_mtokens_per_s=2000,
        min_cut=MinCut(peers=(b,), layer=0),
        solver="beam",
        solve_s=0.01,
    )
    plan = Plan(Epoch(64), planner.peer_id, b"", "ab", 1.0, (), placement)
    shown = plan_status(open_plan(sign_plan(plan, planner, "s"), "s"))
    assert [(it.peer, it.start, it.end) for it in shown.placement] == [(b, 0, 4), (a, 4, 8)]
    assert (shown.tokens_per_s, shown.bound_tokens_per_s, shown.gap) == (1.5, 2.0, 0.25)
    assert shown.bottleneck == "layer 0, held by 1 peer"
