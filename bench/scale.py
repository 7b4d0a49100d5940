"""`./scripts/bench sim --scale`: whole swarms of growing size under churn, in virtual time.

Every peer runs its production machines; a fifth of the peers crash per ten minutes and come back.
With clients, requests come throughout; without, it is membership and planning alone.

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
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from bench import compiled, pages
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
GC_THRESHOLD = 1_000_000
"""Millions of small objects live for the whole run; looking at them all the time takes a third."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One row: what a swarm of this size did and what it cost.

    Attributes:
        peers: How many.
        clients: Who ask again and again.
        seconds: Virtual, after settling.
        one_plan: Share of the live peers that hold the plan that most hold.
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

    def row(self) -> str:
        """For the table."""
        ended = self.finished + self.failed
        served = f"{self.finished} of {ended}, {self.running} running" if self.clients else "none"
        kinds = self.bytes_by_kind
        parts = " | ".join(f"{kinds[kind]:.0f}" for kind in ("pings", "records", "plans", "DHT"))
        per_second_us = 1e6 * self.cpu_s / self.seconds / self.peers
        return (
            f"| {self.peers} | {self.seconds:.0f} | {100 * self.one_plan:.1f} % | {self.crashes} "
            f"| {served} | {self.plans} | {self.messages:.1f} | {sum(kinds.values()):.0f} "
            f"| {parts} | {self.settle_cpu_s:.0f} | {self.cpu_s:.0f} | {per_second_us:.0f} "
            f"| {self.memory_gb:.1f} |"
        )


HEAD = """\
| peers | virtual s | hold one plan | crashes | requests completed | solves \
| messages per peer and s \
| B per peer and s | pings | records | plans | DHT | CPU s to settle | CPU s after \
| CPU µs per peer and s | GB |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True, slots=True)
class Course:
    """What to run.

    Attributes:
        peers: How many.
        seconds: Virtual, after settling.
        clients: Who ask again and again; 0 for membership and planning alone.
        cpu_limit_s: It ends when so much CPU time is spent, settling included.
        seed: Of everything that is drawn.
    """

    peers: int
    seconds: float
    clients: int
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
    gc.set_threshold(GC_THRESHOLD)
    began_s = time.process_time()
    hint = f"./scripts/bench sim --scale --peers {course.peers} --seconds {course.seconds:g}"
    swarm = volunteers(course.peers, course.seed, replay_hint=hint)
    while swarm.time.now_s < SETTLE_S:
        swarm.time.run(min(swarm.time.now_s + GROWN_S, SETTLE_S))
        pages.enlarge()
    before = _Before(swarm, time.process_time() - began_s)
    gc.freeze()
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
        kinds["records"] = per * said.total() - sum(kinds.values())
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
        )


def _agreement(swarm: LivingSwarm) -> float:
    """Share of the live peers that hold the plan that most of them hold."""
    members = [mind.member for mind in swarm.minds.values() if mind.member is not None]
    held = Counter(member.plan.hash for member in members if member.plan is not None)
    return max(held.values(), default=0) / max(1, len(members))


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
    """Put a row in the place of the one of the same size, and write the page anew."""
    rows = [row for row in _kept() if (row.peers, row.clients > 0) != _key(growth)]
    rows = sorted([*rows, growth], key=_key)
    ROWS.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(_page(rows), encoding="utf-8")


def _key(growth: Growth) -> tuple[int, bool]:
    return (growth.peers, growth.clients > 0)


def _kept() -> list[Growth]:
    if not ROWS.exists():
        return []
    names = {field.name for field in fields(Growth)}
    said = json.loads(ROWS.read_text(encoding="utf-8"))
    return [Growth(**row) for row in said if row.keys() == names]


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
    lines += [f"- {row.peers} peers, {row.clients} clients: {row.when}" for row in rows]
    return "\n".join([*lines, ""])


def _growth_of(rows: list[Growth]) -> list[str]:
    """How bytes grow between the smallest and the largest size."""
    small, large = rows[0], rows[-1]
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
repeated or lost one, an invalid plan or a fallen order ends the run with an error. "Hold one plan"
counts the peers that hold the plan that most hold at that moment: who came back just now still
asks for it. `./scripts/bench sim --scale --docs --peers N --seconds S --clients C` measures a row,
which ends early, with the virtual seconds reached, when its CPU minutes are spent
(`--cpu-minutes`, 10). CPU seconds depend on who shares the machine; bytes and messages do not.
With `--compiled` the same core runs as machine code
([ADR 27](adr/0027-the-core-compiled-for-simulations.md)); below, each row says which it was.

Goals: an hour of 1,000 peers with requests, and 10,000 peers with membership and planning alone,
each in ten minutes of one core.""".splitlines()
