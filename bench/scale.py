"""`./scripts/bench sim --scale`: whole swarms of growing size under churn, in virtual time.

Every peer runs its production machines; a fifth of the peers crash per ten minutes and come back.
With clients, requests come throughout; without, it is membership and planning alone.
"""

import time
from dataclasses import dataclass

from helix_p2p.sim.helix.replay import HelixRun
from helix_p2p.sim.native.workload import Workload
from helix_p2p.sim.volunteers import volunteers

CHURN_SHARE, CHURN_S, AWAY_S = 0.2, 600.0, 60.0
SETTLE_S = 60.0
ASK_WITHIN = 0.8
"""Requests begin in the first four fifths of the time, so that the last ones can end."""
PINGS, PLANS = ("Ping", "Pong", "Beat"), ("PushPlan", "PlanReply", "GetPlan")


@dataclass(frozen=True, slots=True)
class Growth:
    """One row: what a swarm of this size did and what it cost."""

    peers: int
    seconds: float
    settled: bool
    finished: int
    failed: int
    running: int
    crashes: int
    plans: int
    ping_bytes: float
    plan_bytes: float
    directory_bytes: float
    record_bytes: float
    boot_cpu_s: float
    cpu_s: float

    def row(self) -> str:
        """For the table."""
        ended = self.finished + self.failed
        served = f"{self.finished} of {ended}, {self.running} running" if ended else "none"
        total = self.ping_bytes + self.plan_bytes + self.directory_bytes + self.record_bytes
        return (
            f"| {self.peers} | {self.seconds:.0f} | {'yes' if self.settled else 'no'} "
            f"| {self.crashes} | {served} | {self.plans} | {total:.0f} | {self.ping_bytes:.0f} "
            f"| {self.record_bytes:.0f} | {self.plan_bytes:.0f} | {self.directory_bytes:.0f} "
            f"| {self.boot_cpu_s:.0f} | {self.cpu_s:.0f} "
            f"| {1e6 * self.cpu_s / self.seconds / self.peers:.0f} |"
        )


HEAD = """\
| peers | virtual s | one plan | crashes | requests completed | solves | B per peer and s \
| pings | records | plans | DHT | CPU s to settle | CPU s after | CPU µs per peer and s |
|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


def grow(peers: int, seconds: float, clients: int, seed: int = 0) -> Growth:
    """Boot a swarm, let it settle, then watch it.

    Raises:
        BrokenInvariant: A wrong, repeated or lost token; an invalid plan; a fallen order.
    """
    began_s = time.process_time()
    hint = f"./scripts/bench sim --scale --peers {peers} --seconds {seconds:g}"
    swarm = volunteers(peers, seed, replay_hint=hint)
    swarm.time.run(SETTLE_S)
    boot_cpu_s, before, solved = (
        time.process_time() - began_s,
        swarm.said_bytes.copy(),
        swarm.solved,
    )
    crashes = swarm.churn(CHURN_SHARE, CHURN_S, SETTLE_S + seconds, AWAY_S)
    work = None
    if clients:
        asking_s = ASK_WITHIN * seconds
        run = HelixRun(feed=clients, seed=seed, warm_up_s=0.0, duration_s=asking_s)
        work = Workload(swarm, run)
        work.start()
    swarm.time.run(SETTLE_S + seconds)
    said = swarm.said_bytes - before
    per = 1 / (peers * seconds)
    pings, plans = (sum(said[kind] for kind in kinds) * per for kinds in (PINGS, PLANS))
    directory = said["directory"] * per
    return Growth(
        peers,
        seconds,
        swarm.one_plan(),
        work.outcome.finished if work else 0,
        work.outcome.refused + work.outcome.failed if work else 0,
        work.running if work else 0,
        crashes,
        swarm.solved - solved,
        pings,
        plans,
        directory,
        said.total() * per - pings - plans - directory,
        boot_cpu_s,
        time.process_time() - began_s - boot_cpu_s,
    )
