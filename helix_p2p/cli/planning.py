"""What `helix-p2p plan` does: plan over a cluster, show the plan, compare it, draw it.

What is planned goes to stdout; progress and remarks go to stderr.

Always: Ctrl-C ends the search, not the command: the best plan so far is shown, and the command says
that it was stopped; a second Ctrl-C ends it at once.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from helix_p2p.cli import planview
from helix_p2p.cli.picture import picture_html, picture_svg
from helix_p2p.cli.plan import OURS
from helix_p2p.cluster.file import read_cluster
from helix_p2p.cluster.reference import CLUSTERS, MODELS, reference_snapshot
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import ConfigError, HelixError
from helix_p2p.planning import highs
from helix_p2p.planning.baselines import BASELINES, Planner
from helix_p2p.planning.marginal import worths
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import OnProgress, PlanOptions, Progress
from helix_p2p.planning.planner import plan as plan_swarm
from helix_p2p.planning.replan import migration, repair_flows
from helix_p2p.sim.rank import judge
from helix_p2p.types import PeerId

PLANNERS: Mapping[str, Planner] = {OURS: plan_swarm, **BASELINES}
LONG_AGO_S = 1e9
"""Added to the clock when the person stops the search: every deadline is then over."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What was asked for, beside the cluster."""

    planner: str
    objective: str
    time_limit_s: float
    seed: int
    thorough: bool
    latency_weight: float


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of `helix-p2p plan`; see there."""

    cluster: str
    model: str | None
    request: PlanRequest
    explain: bool
    compare: bool
    leavers: tuple[str, ...]
    as_json: bool
    picture: Path | None


def run_plan(asked: Asked) -> None:
    """Plan, and show or draw what came of it.

    Raises:
        ConfigError: The cluster, a peer's name or the picture's path cannot be used.
        HelixError: There is no plan.
    """
    picture = asked.picture
    _check_picture(picture)
    snapshot = load_snapshot(asked.cluster, asked.model)
    gone = _known_peers(snapshot, asked.leavers)
    request = asked.request
    title = f"{Path(asked.cluster).name} · {snapshot.model.name}"
    with _interruptible() as clock:
        found = _planned(snapshot, request, clock, None)
        rows = _compared(snapshot, request, clock, found) if asked.compare else ()
        what_if = _without(snapshot, found, gone, request, clock) if gone else None
        stopped = clock() >= LONG_AGO_S
    parts = planview.Parts(
        title=title,
        snapshot=snapshot,
        placement=found,
        worths=worths(snapshot, found) if asked.explain or asked.as_json else (),
        compared=rows,
        what_if=what_if,
    )
    if picture is not None:
        draw = picture_html if picture.suffix.lower() in {".html", ".htm"} else picture_svg
        _write(picture, draw(snapshot, found, title))
    if asked.as_json:
        click.echo(json.dumps(planview.as_json(parts), indent=1))
    else:
        planview.show(parts, Console(), explain=asked.explain)
    if picture is not None:
        click.echo(f"drawn to {picture}", err=True)
    if stopped:
        click.echo("stopped early: this is the best plan so far", err=True)


def load_snapshot(cluster: str, model: str | None) -> Snapshot:
    """A cluster file, or one of the paper's clusters.

    Raises:
        ConfigError: It is neither, or the model does not go with it.
    """
    if cluster in CLUSTERS:
        return reference_snapshot(cluster, "70b" if model is None else model.lower())
    path = Path(cluster)
    if not path.exists():
        close = get_close_matches(cluster, CLUSTERS, n=1)
        raise ConfigError(
            f"{cluster!r} is neither a file nor one of {', '.join(CLUSTERS)}",
            hint=f"did you mean {close[0]!r}?" if close else None,
        )
    if model is not None:
        raise ConfigError(
            f"--model is for the paper's clusters ({', '.join(MODELS)}); {path} names its own",
            hint="change `model` in the file",
        )
    return read_cluster(path)


def _known_peers(snapshot: Snapshot, names: tuple[str, ...]) -> tuple[PeerId, ...]:
    known = [profile.peer for profile in snapshot.peers]
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            raise ConfigError(
                f"--what-if-leaves: no peer is called {name!r}",
                hint=f"did you mean {close[0]!r}?" if close else None,
            )
    return tuple(PeerId(name) for name in names)


def _check_picture(picture: Path | None) -> None:
    if picture is None:
        return
    if picture.suffix.lower() not in {".svg", ".html", ".htm"}:
        raise ConfigError(f"--picture: {picture} ends in neither .svg nor .html")
    if not picture.parent.is_dir():
        raise ConfigError(f"--picture: there is no folder {picture.parent}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def _planned(
    snapshot: Snapshot, request: PlanRequest, clock: Callable[[], float], live: Placement | None
) -> Placement:
    options = PlanOptions(
        objective=request.objective,
        latency_weight=request.latency_weight,
        seed=request.seed,
        deadline_s=request.time_limit_s,
        clock=clock,
        judge=judge() if request.thorough else None,
        solver=highs.solve,
    )
    with _progress(request.planner) as told:
        found = PLANNERS[request.planner](snapshot, options, live, told)
    # Seconds by a clock that was set forward are no seconds.
    return replace(found, solve_s=found.solve_s % LONG_AGO_S)


def _compared(
    snapshot: Snapshot, request: PlanRequest, clock: Callable[[], float], found: Placement
) -> tuple[planview.Row, ...]:
    """What every planner makes of the same swarm; what one cannot do is a row too."""
    rows = []
    for name in PLANNERS:
        if name == request.planner:
            rows.append(planview.Row(name, found, None))
            continue
        try:
            rows.append(
                planview.Row(
                    name, _planned(snapshot, replace(request, planner=name), clock, None), None
                )
            )
        except HelixError as error:
            rows.append(planview.Row(name, None, error.message))
    return tuple(rows)


def _without(
    snapshot: Snapshot,
    live: Placement,
    gone: tuple[PeerId, ...],
    request: PlanRequest,
    clock: Callable[[], float],
) -> planview.WhatIf:
    """The plan at once after these peers left, and after re-planning."""
    kept = tuple(profile for profile in snapshot.peers if profile.peer not in gone)
    left = replace(snapshot, peers=kept)
    repaired = repair_flows(snapshot, live, gone)
    try:
        replanned = _planned(left, replace(request, planner=OURS), clock, repaired)
    except HelixError as error:
        return planview.WhatIf(gone, repaired, None, None, error.message)
    return planview.WhatIf(gone, repaired, replanned, migration(left, repaired, replanned), None)


@contextmanager
def _interruptible() -> Iterator[Callable[[], float]]:
    """A clock that the first Ctrl-C sets forward; the second one interrupts as usual."""
    stopped = False
    began_s = time.monotonic()

    def hear(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            raise KeyboardInterrupt
        stopped = True

    def clock() -> float:
        return time.monotonic() - began_s + (LONG_AGO_S if stopped else 0.0)

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield clock
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress(planner: str) -> Iterator[OnProgress]:
    """One line on a terminal's stderr, rewritten: incumbent, bound, gap; else silence."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(f"{planner}: starting") as status:

        def told(progress: Progress) -> None:
            status.update(planview.progress_line(planner, progress))

        yield told
    sys.stderr.flush()
