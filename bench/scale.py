"""`./scripts/bench sim --scale`: whole swarms of growing size under churn, in virtual time.

Every peer runs its production machines; a fifth of the peers crash per ten minutes and come back.
With clients, requests come throughout; without, it is membership and planning alone. A large swarm
is parted into as many cells (docs/adr/0029) as bootstrap nodes advise, or as are asked for.

Always: a row says how many virtual seconds were reached, which may be fewer than were asked for
when the time allowed is over; rows of other sizes stay in the page as they were measured.
"""

import gc
import json
import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import compiled, pages
from helix_p2p.membership.cells import cells_for
from helix_p2p.node.config import MOVE_WITHIN_S
from helix_p2p.sim.helix.replay import HelixRun
from helix_p2p.sim.living import LivingSwarm
from helix_p2p.sim.native.workload import Workload
from helix_p2p.sim.volunteers import volunteers

ROWS = Path(__file__).parents[1] / "docs" / "simulator-scale.json"
PAGE = ROWS.with_suffix(".md")
CHURN_SHARE, CHURN_S, AWAY_S = 0.2, 600.0, 60.0
SETTLE_S = 60.0
SLICE_S = 10.0
GROWN_S = 2.0
"""While a swarm boots, what it has allocated is put on large pages so often."""
ASK_WITHIN = 0.8
"""Requests begin in the first four fifths of the time, so that the last ones can end."""
PINGS = ("Ping", "Pong", "Beat", "PeerGone")
PLANS = ("PushPlan", "PlanReply", "GetPlan")
LEAST_VALUES, VALUES_PER_PEER = 1_000_000, 1000
"""Between two looks for garbage. Millions of small objects live for the whole run; looking at them
all the time takes a third. While a swarm boots nearly all that is made stays, so nobody looks."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One row: what a swarm of this size did and what it cost.

    Attributes:
        peers: How many.
        clients: Who ask again and again.
        seconds: Virtual, after settling.
        one_plan: Share of the live peers that hold the plan that most of their cell hold.
        finished: Requests that were answered; every token was checked.
        failed: Requests that were not.
        running: Requests under way at the end.
        crashes: Of peers.
        plans: Solves.
        messages: Of membership, per peer and second.
        bytes_by_kind: Per peer and second.
        settle_cpu_s: CPU seconds until the swarm had settled, 60 virtual seconds.
        cpu_s: CPU seconds afterwards.
        memory_gb: Most that the process held.
        when: Date, commit and machine.
        cells: Into how many the swarm is parted.
        parted_from: Into how many it was at first; None where that stayed.
        planned_tokens_per_s: Max flow of the cells' plans at the end, together; None where it was
            not looked at.
    """

    peers: int
    clients: int
    seconds: float
    one_plan: float
    finished: int
    failed: int
    running: int
    crashes: int
    plans: int
    messages: float
    bytes_by_kind: dict[str, float]
    settle_cpu_s: float
    cpu_s: float
    memory_gb: float
    when: str
    cells: int = 1
    planned_tokens_per_s: float | None = None
    parted_from: int | None = None

    def row(self) -> str:
        """For the table."""
        ended = self.finished + self.failed
        served = f"{self.finished} of {ended}, {self.running} running" if self.clients else "none"
        kinds = self.bytes_by_kind
        planned = self.planned_tokens_per_s
        columns = (
            self.peers,
            self.cells if self.parted_from is None else f"{self.parted_from} → {self.cells}",
            f"{self.seconds:.0f}",
            f"{100 * self.one_plan:.1f} %",
            self.crashes,
            served,
            "" if planned is None else f"{planned:.0f}",
            self.plans,
            f"{self.messages:.1f}",
            f"{sum(kinds.values()):.0f}",
            *(f"{kinds[kind]:.0f}" for kind in ("pings", "records", "plans", "DHT")),
            f"{self.settle_cpu_s:.0f}",
            f"{self.cpu_s:.0f}",
            f"{1e6 * self.cpu_s / self.seconds / self.peers:.0f}",
            f"{self.memory_gb:.1f}",
        )
        return f"| {' | '.join(map(str, columns))} |"


HEAD = """\
| peers | cells | virtual s | hold one plan | crashes | requests completed \
| planned tokens/s | solves | messages per peer and s \
| B per peer and s | pings | records | plans | DHT | CPU s to settle | CPU s after \
| CPU µs per peer and s | GB |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True, slots=True)
class Course:
    """What to run.

    Attributes:
        peers: How many.
        seconds: Virtual, after settling.
        clients: Who ask again and again; 0 for membership and planning alone.
        cells: Into so many the swarm is parted; None for as many as are advised.
        parted_into: Cells of which the operator speaks when it has settled; peers move within a
            quarter of an hour. None for no such word.
        cpu_limit_s: It ends when so much CPU time is spent, settling included.
        seed: Of everything that is drawn.
    """

    peers: int
    seconds: float
    clients: int
    cells: int | None = None
    parted_into: int | None = None
    cpu_limit_s: float = 600.0
    seed: int = 0


def grow(course: Course, watch: Callable[[Growth], None] | None = None) -> Growth:
    """Boot a swarm, let it settle, then watch it.

    Args:
        course: What to run.
        watch: Gets the row so far, every ten virtual seconds.

    Raises:
        BrokenInvariant: A wrong, repeated or lost token; an invalid plan; a fallen order.
    """
    gc.disable()
    began_s = time.process_time()
    hint = f"./scripts/bench sim --scale --peers {course.peers} --seconds {course.seconds:g}"
    cells = course.cells or cells_for(course.peers, 1)
    swarm = volunteers(
        course.peers, course.seed, replay_hint=f"{hint} --cells {cells}", cells=cells
    )
    while swarm.time.now_s < SETTLE_S:
        swarm.time.run(min(swarm.time.now_s + GROWN_S, SETTLE_S))
        pages.enlarge()
    before = _Before(swarm, time.process_time() - began_s)
    gc.freeze()
    gc.set_threshold(max(LEAST_VALUES, VALUES_PER_PEER * course.peers))
    gc.enable()
    end_s = SETTLE_S + course.seconds
    swarm.churn(CHURN_SHARE, CHURN_S, end_s, AWAY_S)
    work = None
    if course.clients:
        run = HelixRun(
            feed=course.clients,
            seed=course.seed,
            warm_up_s=0.0,
            duration_s=ASK_WITHIN * course.seconds,
        )
        work = Workload(swarm, run)
        work.start()
    if course.parted_into is not None:
        swarm.part(course.parted_into, MOVE_WITHIN_S)
    while True:
        swarm.time.run(min(swarm.time.now_s + SLICE_S, end_s))
        pages.enlarge()
        spent_s = time.process_time() - began_s
        row = before.growth(course, swarm, work, spent_s)
        if watch is not None:
            watch(row)
        if swarm.time.now_s >= end_s or spent_s >= course.cpu_limit_s:
            gc.unfreeze()
            return row


class _Before:
    """What had been said and done when the swarm had settled."""

    def __init__(self, swarm: LivingSwarm, cpu_s: float) -> None:
        self.cpu_s = cpu_s
        self.bytes = swarm.said_bytes.copy()
        self.messages = swarm.said.total()
        self.solved = swarm.solved
        self.crashed = swarm.crashed
        self.cells = swarm.cells

    def growth(
        self, course: Course, swarm: LivingSwarm, work: Workload | None, spent_s: float
    ) -> Growth:
        """The row so far."""
        seconds = swarm.time.now_s - SETTLE_S
        per = 1 / (course.peers * seconds)
        said = swarm.said_bytes - self.bytes
        kinds = {
            "pings": per * sum(said[kind] for kind in PINGS),
            "plans": per * sum(said[kind] for kind in PLANS),
            "DHT": per * said["directory"],
        }
        kinds["records"] = max(0.0, per * said.total() - sum(kinds.values()))
        return Growth(
            peers=course.peers,
            clients=course.clients,
            seconds=seconds,
            one_plan=_agreement(swarm),
            finished=work.outcome.finished if work else 0,
            failed=work.outcome.refused + work.outcome.failed if work else 0,
            running=work.running if work else 0,
            crashes=swarm.crashed - self.crashed,
            plans=swarm.solved - self.solved,
            messages=per * (swarm.said.total() - self.messages),
            bytes_by_kind=kinds,
            settle_cpu_s=self.cpu_s,
            cpu_s=spent_s - self.cpu_s,
            memory_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            when=_when(),
            cells=swarm.cells,
            planned_tokens_per_s=swarm.planned_tokens_per_s,
            parted_from=None if course.parted_into is None else self.cells,
        )


def _agreement(swarm: LivingSwarm) -> float:
    """Share of the live peers that hold the plan that most of their cell hold."""
    agree = live = 0
    for plans in swarm.plans().values():
        live += plans.total()
        agree += max((count for plan, count in plans.items() if plan), default=0)
    return agree / max(1, live)


def _when() -> str:
    commit = subprocess.run(  # noqa: S603 (git, in our own folder)
        [shutil.which("git") or "git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROWS.parent,
    ).stdout.strip()
    core = "compiled" if compiled.in_use() else "interpreted"
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, at {commit or 'no commit'}, {core}, "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"load average {os.getloadavg()[0]:.1f}"
    )


def keep(growth: Growth) -> None:
    """Put a row in the place of the one of its size and cells, and write the page anew."""
    rows = [row for row in _kept() if _key(row) != _key(growth)]
    rows = sorted([*rows, growth], key=_key)
    ROWS.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(_page(rows), encoding="utf-8")


def _key(growth: Growth) -> tuple[int, int, int, bool]:
    return (growth.peers, growth.cells, growth.parted_from or 0, growth.clients > 0)


def _kept() -> list[Growth]:
    if not ROWS.exists():
        return []
    said = json.loads(ROWS.read_text(encoding="utf-8"))
    return [Growth(**row) for row in said]


def _page(rows: list[Growth]) -> str:
    lines = ["# Swarms of growing size", "", *ABOUT, ""]
    for title, chosen in (
        ("Serving under churn", [row for row in rows if row.clients]),
        ("Membership and planning alone", [row for row in rows if not row.clients]),
    ):
        if chosen:
            lines += [f"## {title}", "", HEAD, *(row.row() for row in chosen), ""]
            lines += [*_growth_of(chosen), ""]
    lines += ["## When and where", ""]
    lines += [f"- {_size(row)}, {row.clients} clients: {row.when}" for row in rows]
    return "\n".join([*lines, ""])


def _size(row: Growth) -> str:
    if row.parted_from is not None:
        return f"{row.peers} peers parted from {row.parted_from} into {row.cells} cells"
    return f"{row.peers} peers in {row.cells} cells" if row.cells > 1 else f"{row.peers} peers"


def _growth_of(rows: list[Growth]) -> list[str]:
    """How bytes grow between the smallest and the largest size, each in as many cells as it has."""
    settled = [row for row in rows if row.parted_from is None]
    usual = [row for row in settled if row.cells == cells_for(row.peers, 1)]
    if not usual:
        return []
    small, large = usual[0], usual[-1]
    if small.peers == large.peers:
        return []
    before, after = (sum(row.bytes_by_kind.values()) for row in (small, large))
    said = (
        f"From {small.peers} to {large.peers} peers ({large.peers / small.peers:.1f} times as "
        f"many), bytes per peer and second grow {after / before:.2f} times, messages "
        f"{large.messages / small.messages:.2f} times."
    )
    return [said]


ABOUT = """\
Every peer runs its production membership, planning and serving machines in one process, on one
core, in virtual time ([how](simulator.md)). A fifth of the peers crash per ten minutes and come
back after about a minute. Each answered token is checked against the only right one; a wrong,
repeated or lost one, an invalid plan or a fallen order ends the run with an error. A swarm of more
than 512 peers is parted into cells of about 384 ([ADR 29](adr/0029-cells.md)); rows of large swarms
in one cell show what a full view of everyone costs. "Hold one plan" counts the peers that hold the
plan that most of their cell hold at that moment: who came back just now still asks for it.
"Planned" is the max flow of all cells' plans together. `./scripts/bench sim --scale --docs
--peers N --seconds S --clients C` measures a row, which ends early, with the virtual seconds
reached, when its CPU minutes are spent (`--cpu-minutes`, 10); `--cells` forces the number of
cells, and with `--part-into` the operator asks for another number once the swarm has settled, so
that peers move (1 → 2) while it serves. CPU seconds depend on who shares the machine; bytes and
messages do not.
With `--compiled` the same core runs as machine code
([ADR 27](adr/0027-the-core-compiled-for-simulations.md)); below, each row says which it was.

Goals: an hour of 1,000 peers with requests, and 10,000 peers with membership and planning alone,
each in ten minutes of one core.""".splitlines()
