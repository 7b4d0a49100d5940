import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from helix_p2p.cli.plan import LATENCY_WEIGHT, MOST_LATENCY_WEIGHT, OBJECTIVES, OURS, PLANNERS, plan
from helix_p2p.errors import ConfigError, SwarmTooSmall
from helix_p2p.planning import options
from helix_p2p.planning.baselines import BASELINES
from helix_p2p.planning.planner import Objective

EXAMPLE = str(Path(__file__).parents[3] / "examples/home-swarm.toml")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(plan, list(arguments), catch_exceptions=False)


def planned(*arguments: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    return said


def test_flow_of_single24_is_proven_optimal() -> None:
    said = planned("single24", "--objective", "flow")["plan"]
    assert said["flow_tokens_per_s"] == pytest.approx(2045.641)
    assert said["gap"] == 0
    held = {layer for a in said["assignments"] for layer in range(a["start"], a["end"])}
    assert held == set(range(80))


@pytest.mark.parametrize(("planner", "flow"), [("petals", 952.107), ("swarm", 757.853)])
def test_planner_selects_a_baseline(planner: str, flow: float) -> None:
    said = planned("single24", "--planner", planner)["plan"]
    assert said["solver"] == planner
    assert said["flow_tokens_per_s"] == pytest.approx(flow)


def test_json_of_one_seed_is_reproducible() -> None:
    # Proven optimal at once, so that no deadline on a busy machine comes between.
    asked = ("single24", "--objective", "flow", "--seed", "3")
    one, other = (planned(*asked)["plan"] for _ in range(2))
    for key in ("assignments", "flows", "min_cut", "flow_tokens_per_s", "bound_tokens_per_s"):
        assert one[key] == other[key]


def test_tables_name_every_peer_and_the_proof() -> None:
    shown = run(EXAMPLE, "--time-limit", "2").stdout
    assert "bound" in shown
    for peer in ("anna", "campus-3", "old-card", "petra"):
        assert peer in shown


def test_explain_names_the_cut_and_what_each_peer_is_worth() -> None:
    shown = run("single24", "--planner", "petals", "--explain").stdout
    assert "Why not more" in shown
    assert "lost without it" in shown
    assert "06-a100 alone" in shown


def test_what_if_says_what_is_left_at_once_and_after_replanning() -> None:
    said = planned(EXAMPLE, "--time-limit", "2", "--what-if-leaves", "joao")
    left = said["what_if_leaves"]
    assert left["gone"] == ["joao"]
    assert left["at_once_tokens_per_s"] <= said["plan"]["flow_tokens_per_s"]
    # A plan may give up a little flow for shorter pipelines.
    assert left["replanned"]["flow_tokens_per_s"] >= 0.98 * left["at_once_tokens_per_s"]
    assert all(a["peer"] != "joao" for a in left["replanned"]["assignments"])
    assert left["migration"]["fetched_bytes"] > 0
    assert (
        "after re-planning" in run(EXAMPLE, "--time-limit", "1", "--what-if-leaves", "joao").stdout
    )


def test_compare_lists_every_planner_and_why_one_cannot() -> None:
    shown = run("single24", "--compare", "--time-limit", "2")
    for planner in ("helix-p2p", "helix", "helix-partial", "petals", "swarm", "separate"):
        assert planner in shown.stdout
    assert "no type of GPU holds the model alone" in shown.stdout


@pytest.mark.parametrize("ending", ["svg", "html"])
def test_picture_is_drawn(tmp_path: Path, ending: str) -> None:
    drawn = tmp_path / f"plan.{ending}"
    run("single24", "--planner", "swarm", "--picture", str(drawn))
    assert "00-l4" in drawn.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sinle24"], "did you mean 'single24'"),
        (["single24", "--model", "7b"], "'7b' is not one of"),
        ([EXAMPLE, "--model", "70b"], "names its own"),
        (["single24", "--what-if-leaves", "00-l5"], "did you mean '00-l4'"),
        (["single24", "--picture", "plan.png"], "neither .svg nor .html"),
        (["single24", "--picture", "/no/such/folder/plan.svg"], "no folder"),
    ],
)
def test_what_cannot_be_meant_is_said(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(*arguments)


def test_too_small_a_swarm_says_how_much_is_missing(tmp_path: Path) -> None:
    small = tmp_path / "small.toml"
    small.write_text(
        'model = "llama-3.3-70b"\n[[peers]]\nname = "a"\ndevice = "rtx-4090"\n', encoding="utf-8"
    )
    with pytest.raises(SwarmTooSmall, match="GB more are needed") as caught:
        run(str(small))
    assert caught.value.missing_bytes > 100e9


def test_ctrl_c_keeps_the_best_plan_so_far() -> None:
    script = "from helix_p2p.cli.main import main; main()"
    asked = ["plan", "single24", "--planner", "helix", "--json", "--time-limit", "600"]
    child = subprocess.Popen(
        [sys.executable, "-c", script, *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            # The solver's process is there: the search is under way.
            children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
            for _ in range(600):
                if children.read_text().split():
                    break
                try:
                    child.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
            os.kill(child.pid, signal.SIGINT)
            out, err = child.communicate(timeout=30)
        finally:
            child.kill()
    assert child.returncode == 0, err
    assert "best plan so far" in err
    assert json.loads(out)["plan"]["flow_tokens_per_s"] >= 757.8


def test_choices_on_the_command_line_are_the_planners_and_objectives_there_are() -> None:
    assert set(PLANNERS) == {OURS, *BASELINES}
    assert set(OBJECTIVES) == {objective.value for objective in Objective}
    assert OBJECTIVES[0] == Objective.THROUGHPUT.value
    assert (LATENCY_WEIGHT, MOST_LATENCY_WEIGHT) == (
        options.LATENCY_WEIGHT,
        options.MOST_LATENCY_WEIGHT,
    )


def test_what_waiting_weighs_is_asked_for_on_the_command_line() -> None:
    refused = CliRunner().invoke(plan, ["single24", "--latency-weight", "-1"])
    assert refused.exit_code == 2

    def token_s(weight: str) -> float:
        said = planned("geo24", "--model", "70b", "--time-limit", "4", "--latency-weight", weight)
        served: float = said["plan"]["estimate"]["token_s"]
        return served

    assert token_s("0") > token_s("4")
