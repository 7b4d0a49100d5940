"""The planner against other ways to the same number, and against bad input.

Random small swarms, announced and signed: coverage against networkx, search against the optimum of
Helix's MILP by HiGHS, every plan against `validate`. Files, swarms and solvers that are no good.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from bench.measuring import flow_options, timed, tokens
from bench.report import Line, Report
from bench.small import NOW_UNIX_S, SmallSwarm, networkx_flow
from helix_p2p.cluster.file import read_cluster
from helix_p2p.cluster.reference import reference_snapshot
from helix_p2p.errors import ConfigError, HelixError, SwarmTooSmall
from helix_p2p.planning.baselines import BASELINES
from helix_p2p.planning.baselines.helix import plan_milp
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.coverage import coverage, layout_of
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.highs import solve
from helix_p2p.planning.plan import Assignment
from helix_p2p.planning.planner import plan
from helix_p2p.planning.validate import validate
from helix_p2p.types import LayerRange, PeerId


def small_swarms(report: Report, *, quick: bool) -> None:
    """Random small swarms: every number by another way too."""
    with report.guarded("small", "coverage"):
        rng = Random(3)
        same, count = 0, 60 if quick else 400
        for number in range(count):
            swarm = SmallSwarm(rng.randint(2, 7), rng.randint(2, 10), number, links=number % 2 == 1)
            same += _coverage_agrees(swarm, rng)
        report.add(
            Line(
                "small",
                "coverage = max flow (networkx) = min cut, random placements",
                f"{same} of {count}",
                f"{count} of {count}",
                same == count,
            )
        )
    with report.guarded("small", "optimum"):
        found = [_against_milp(seed) for seed in range(8 if quick else 40)]
        for links, what in ((False, "without binding links"), (True, "with binding links")):
            drawn = [f for f in found if f is not None and f[2] == links]
            good = sum(ours >= best - 2 for ours, best, _ in drawn)
            worst = min((ours / best for ours, best, _ in drawn if best), default=1.0)
            report.add(
                Line(
                    "small",
                    f"search = HiGHS's optimum of Helix's MILP, {what}",
                    f"{good} of {len(drawn)} (least {worst:.1%})",
                    f"{len(drawn)} of {len(drawn)}",
                    good == len(drawn) > 0,
                )
            )
    with report.guarded("small", "validity"):
        count = 10 if quick else 60
        valid = sum(_validates(seed) for seed in range(count))
        report.add(
            Line("small", "plans that pass `validate`", f"{valid}", f"{count}", valid == count)
        )


def _coverage_agrees(swarm: SmallSwarm, rng: Random) -> bool:
    capacities = capacities_of(swarm.snapshot)
    layers = swarm.model.layers
    longest = capacities.longest.max(axis=1)
    held = []
    for row, peer in enumerate(capacities.peers):
        if longest[row]:
            length = rng.randint(1, int(longest[row]))
            start = rng.randint(0, layers - length)
            held.append(_assignment(peer, start, start + length))
    layout = layout_of(capacities, held)
    flow, cut = networkx_flow(swarm.snapshot, capacities, layout)
    ours = route_flow(swarm.snapshot, capacities, layout).value_mtokens_per_s
    bound_by_links = any(link.bandwidth_bytes_per_s for link in swarm.snapshot.links.values())
    cover = int(np.min(coverage(capacities, layout)))
    return flow == cut == ours and (flow <= cover if bound_by_links else flow == cover)


def _assignment(peer: PeerId, start: int, end: int) -> Assignment:
    return Assignment(peer, LayerRange(start, end))


def _against_milp(seed: int) -> tuple[int, int, bool] | None:
    """(our value, HiGHS's optimum, whether links bind); None for a draw that covers nothing."""
    links = seed % 2 == 1
    swarm = SmallSwarm(4 + seed // 2 % 2, 4 + seed % 3, 1000 + seed, links=links, lines=False)
    try:
        best = BASELINES["helix-partial"](swarm.snapshot, flow_options(30.0), None, None)
        ours = plan(swarm.snapshot, flow_options(5.0))
    except SwarmTooSmall:
        return None
    return ours.value_mtokens_per_s, best.value_mtokens_per_s, links


def _validates(seed: int) -> bool:
    swarm = SmallSwarm(3 + seed % 5, 3 + seed % 6, 2000 + seed, links=seed % 2 == 1)
    try:
        made = plan(swarm.snapshot, flow_options(2.0))
    except SwarmTooSmall:
        return True
    validate(swarm.signed(made), swarm.rules, NOW_UNIX_S)
    return True


def bad_input(report: Report) -> None:
    """Files, swarms and solvers that are no good."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "swarm.toml"
        path.write_text('model = "llama-3.1-8b"\n[[peers]]\nname = "a"\nmemory = "8"\n')
        said = _said(lambda: read_cluster(path), ConfigError)
        report.add(
            Line(
                "bad input",
                "a file names line and field",
                said,
                "names it",
                "peers[0].memory" in said,
            )
        )
        path.write_text('model = "llama-3.3-70b"\n[[peers]]\nname = "a"\ndevice = "rtx-4090"\n')
        said = _said(lambda: plan(read_cluster(path), flow_options(5.0)), SwarmTooSmall)
        report.add(
            Line("bad input", "a small swarm says what is missing", said, "says GB", " GB " in said)
        )
    snapshot = reference_snapshot("single24", "70b")

    for name, code, word in (
        ("dead", "import os; os.abort()", "died"),
        ("slow", "import time; time.sleep(60)", "start only"),
    ):
        broken = partial(solve, command=(sys.executable, "-c", code))
        options = flow_options(1.0)
        made, seconds = timed(
            lambda: plan_milp(snapshot, options, None, None, partial=False, solver=broken)  # noqa: B023
        )
        report.add(
            Line(
                "bad input",
                f"a {name} solver leaves the heuristic's plan",
                f"{tokens(made):,.1f} tokens/s in {seconds:.1f} s by {made.solver}",
                "says so in ≤ 8 s",
                word in made.solver and made.value_mtokens_per_s > 0 and seconds <= 8,
            )
        )


def _said(act: Callable[[], object], kind: type[HelixError]) -> str:
    try:
        act()
    except kind as error:
        return str(error)
    return "nothing"
