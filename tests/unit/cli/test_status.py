"""The status page: what the node said, in people's units, whatever names peers give themselves."""

import json
import time
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from helix_p2p.cli.shown import harmless
from helix_p2p.cli.status import print_status
from helix_p2p.errors import DecodeError
from helix_p2p.node.status import (
    CellStatus,
    FlowStatus,
    LayerStatus,
    MemberStatus,
    NodeStatus,
    PlanStatus,
)

PLAN = PlanStatus(
    epoch=1234,
    hash="ab",
    planner="12D3KooWplanner00",
    issued_unix_s=0.0,
    tokens_per_s=41.3,
    bound_tokens_per_s=42.0,
    gap=0.0167,
    solver="beam",
    solve_s=0.012,
    placement=(LayerStatus("12D3KooWaaaaaaaa", 0, 12), LayerStatus("12D3KooWbbbbbbbb", 12, 30)),
    flows=(
        FlowStatus("12D3KooWaaaaaaaa", "12D3KooWbbbbbbbb", 41.3),
        FlowStatus(None, "12D3KooWaaaaaaaa", 41.3),
        FlowStatus("12D3KooWbbbbbbbb", None, 41.3),
    ),
    bottleneck="layer 3, held by 1 peer",
)
STATUS = NodeStatus(
    role="peer",
    peer="12D3KooWaaaaaaaa",
    swarm="swarm-id",
    trusted=True,
    model="tiny",
    manifest_hash="ab",
    layers=30,
    state="serving",
    device="cpu",
    memory_bytes=330_000_000,
    holds=(0, 12),
    to_hold=(0, 12),
    plan=PLAN,
    members=(
        MemberStatus("12D3KooWaaaaaaaa", "serving", "attic [red]", "cpu", 330_000_000, (0, 12)),
        MemberStatus(
            "12D3KooWbbbbbbbb",
            "serving",
            memory_bytes=450_000_000,
            serving=(12, 30),
            rtt_s=0.0042,
            age_s=2.0,
        ),
        MemberStatus("12D3KooWcccccccc", "standby", name="bootstrap"),
    ),
)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def test_page_shows_placement_plan_and_proof(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(msgspec.to_builtins(STATUS), as_json=False)
    page = capsys.readouterr().out
    for part in (
        "serving",
        "330 MB",
        "(invite-only), 2 peers",
        "[0, 12)",
        "[12, 30)",
        "epoch 1234: 41.3 tokens/s for many requests at once, of at most 42.0 (gap 1.7%), by",
        "layer 3, held by 1 peer",
        "4.2 ms",
        "…bbbbbbbb",
    ):
        assert part in page
    flows = [line.strip() for line in page.splitlines() if "─▶" in line]
    assert flows == [
        "clients ─41.3 tokens/s─▶ attic [red] [0, 12)",
        "attic [red] [0, 12) ─41.3 tokens/s─▶ …bbbbbbbb [12, 30)",
        "…bbbbbbbb [12, 30) ─41.3 tokens/s─▶ answer",
    ]


def test_json_is_what_the_node_said(capsys: pytest.CaptureFixture[str]) -> None:
    said = {"anything": 1}
    print_status(said, as_json=True)
    assert json.loads(capsys.readouterr().out) == said


def test_status_of_another_version_is_one_typed_error() -> None:
    with pytest.raises(DecodeError, match="another version"):
        print_status({"role": 7}, as_json=False)


def test_open_swarm_is_called_untrusted(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(
        msgspec.to_builtins(
            NodeStatus("bootstrap", "b", "open-x", False, "tiny", "", 8, "running")
        ),
        as_json=False,
    )
    assert "open, untrusted" in capsys.readouterr().out


def test_cells_of_a_large_swarm_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    other = CellStatus(1, 401, 380, 7_000_000_000_000, 42.0)
    status = replace(STATUS, cells=3, elsewhere=(other,))
    print_status(json.loads(msgspec.json.encode(status)), as_json=False)
    out = capsys.readouterr().out
    assert "2 peers in cell 0, one of 3" in out
    assert out.splitlines()[-1].split()[:3] == ["1", "401", "380"]


def test_bootstrap_nodes_stand_apart_from_the_peers(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(json.loads(msgspec.json.encode(STATUS)), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "2 peers" in next(line for line in lines if line.startswith("swarm"))
    assert lines[-1] == "bootstrap node: bootstrap"
    assert sum("standby" in line for line in lines) == 0


def test_plan_says_that_its_figure_is_for_many_requests(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(json.loads(msgspec.json.encode(STATUS)), as_json=False)
    assert "41.3 tokens/s for many requests at once" in capsys.readouterr().out


def test_names_of_others_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;title\x07 \u202edesk\n"
    members = (MemberStatus("12D3KooWaaaaaaaa", "serving\x1b[2J", hostile, "card", 1000, (0, 12)),)
    said = json.loads(msgspec.json.encode(STATUS)) | {
        "members": json.loads(msgspec.json.encode(members)),
        "detail": "why\x9b31m",
    }
    print_status(said, as_json=False)
    shown = capsys.readouterr().out
    assert "]0;title desk" in shown
    assert all(c == "\n" or c.isprintable() for c in shown)


def test_characters_that_only_format_are_left_out_and_joined_letters_stay() -> None:
    assert harmless("a\ufff9b\ufffbc\U000e0041d\u2066e") == "abcde"
    assert harmless("👩\u200d💻 می\u200cخواهم") == "👩\u200d💻 می\u200cخواهم"


def test_page_of_a_status_without_end_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    many = [
        MemberStatus(
            f"12D3KooW{number:08}", "serving", memory_bytes=1, serving=(number, number + 1)
        )
        for number in range(20_000)
    ]
    flows = [FlowStatus(a.peer, b.peer, 1.0) for a, b in pairwise(many)]
    said = json.loads(msgspec.json.encode(STATUS)) | {
        "members": json.loads(msgspec.json.encode(many)),
        "detail": "x" * 1_000_000,
        "plan": json.loads(msgspec.json.encode(PLAN))
        | {"flows": json.loads(msgspec.json.encode(flows))},
    }
    began_s = time.thread_time()
    print_status(said, as_json=False)
    assert time.thread_time() - began_s < 2.0  # 0.4 s; row by row it was minutes
    shown = capsys.readouterr().out
    assert "… and 19800 more; --json names all" in shown
    assert "… and 19799 more" in shown
    assert len(shown) < 100_000
