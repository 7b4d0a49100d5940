"""What happens at 1600 tokens/s online and more, where the Helix artifact stops with an assertion.

There it says `No next level node meets scheduling requirement`, and its baselines go over their KV
memory. Here requests wait in bounded queues, are refused with an error that says so, and no stage
is ever given more than it has room for.
"""

import time
from dataclasses import dataclass

from helix_p2p.sim.helix.replay import HelixRun, replay
from helix_p2p.sim.helix.setup import published_setup
from helix_p2p.sim.native.swarm import ServingSwarm
from helix_p2p.sim.native.workload import Workload

CASE = "single24/70b/ilp"
ROWS = {
    "overload/helix/1600": (1600.0, 2400.0),
    "overload/native/1600": (1600.0, 600.0),
    "overload/native/6400": (6400.0, 240.0),
}
"""Tokens per second asked for, and virtual seconds. Helix mode queues 1024 requests before it
refuses one, which takes most of that time; natively the same stages serve 1600 tokens/s, so there
is a row with four times as much."""

HEAD = """\
| row | virtual s | tokens/s | finished | longest queue | refused | by which error \
| failed | KV peak | CPU s |
|---|---:|---:|---:|---:|---:|---|---:|---:|---:|"""


@dataclass(frozen=True, slots=True)
class Overload:
    """What one mode did with more than it can serve."""

    name: str
    seconds: float
    tokens_per_s: float
    finished: int
    longest_queue: int
    refused: int
    errors: str
    failed: int
    kv_peak_share: float
    cpu_s: float

    @property
    def holds(self) -> bool:
        """Whether all that did not fit waited or was refused, and memory was kept."""
        fits = self.name == "overload/native/1600"
        kept = self.failed == 0 and self.kv_peak_share <= 1.0
        return kept and (fits or min(self.refused, self.longest_queue) > 0)

    def line(self) -> str:
        """Of the table."""
        return (
            f"| {self.name} | {self.seconds:.0f} | {self.tokens_per_s:.1f} | {self.finished} "
            f"| {self.longest_queue} | {self.refused} | {self.errors} | {self.failed} "
            f"| {100 * self.kv_peak_share:.0f} % | {self.cpu_s:.1f} |"
        )


def overload(name: str) -> Overload:
    """Run a row.

    Args:
        name: One of `ROWS`.
    """
    arrivals_tokens_per_s, seconds = ROWS[name]
    run = HelixRun(
        online=True,
        arrival_tokens_per_s=arrivals_tokens_per_s,
        warm_up_s=0.0,
        duration_s=seconds,
        seed=1,
    )
    began_s = time.process_time()
    if name.startswith("overload/helix"):
        figures = replay(published_setup(CASE), run)
        refused = figures.refused
        errors, failed = "queue full", 0  # a replay that fails stops with an exception
    else:
        swarm = ServingSwarm(published_setup(CASE), None, run.seed)
        work = Workload(swarm, run)
        work.start()
        swarm.time.run(run.duration_s)
        figures = work.figures()
        errors, refused = ", ".join(sorted(swarm.refusals)), swarm.refusals.total()
        failed = work.outcome.failed
    return Overload(
        name,
        run.duration_s,
        figures.decode_tokens_per_s,
        figures.finished,
        figures.longest_queue,
        refused,
        errors,
        failed,
        max(figures.kv_peak_share.values()),
        time.process_time() - began_s,
    )
