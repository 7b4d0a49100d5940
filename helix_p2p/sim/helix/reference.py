"""The artifact's 43 results and ours beside them.

Always: a row is run exactly as the artifact ran it; where its schedulers draw at random, several
draws over the same requests are averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helix_p2p.sim.helix.figures import Figures, percentiles
from helix_p2p.sim.helix.replay import HelixRun, replay
from helix_p2p.sim.helix.routes import Scheduler
from helix_p2p.sim.helix.setup import published_setup, reference_runs
from helix_p2p.types import PeerId

CHOICE_SEEDS = (1, 2, 3)
ONLINE_S = 1800.0


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row beside the artifact's.

    Attributes:
        case: The row's name.
        decode_tokens_per_s: Ours.
        prompt_s: Ours, mean.
        decode_s: Ours, mean.
        reference: The artifact's row, as in `runs.json`.
        prompt_percentiles_s: Ours, of the first draw.
        decode_percentiles_s: Ours, of the first draw.
        kv_peak_share: The fullest stage at its fullest.
        virtual_s: Simulated.
        events: Handled.
    """

    case: str
    decode_tokens_per_s: float
    prompt_s: float
    decode_s: float
    reference: Mapping[str, Any]
    prompt_percentiles_s: tuple[float, ...]
    decode_percentiles_s: tuple[float, ...]
    kv_peak_share: float
    virtual_s: float
    events: int

    @property
    def errors(self) -> tuple[float, float, float]:
        """Relative: throughput, prompt latency, decode latency."""
        return (
            self.decode_tokens_per_s / self.reference["decode_tokens_per_s"] - 1,
            self.prompt_s / self.reference["prompt_s"] - 1,
            self.decode_s / self.reference["decode_s"] - 1,
        )


def reference_rows() -> Sequence[Mapping[str, Any]]:
    """What the artifact was run with and what it gave."""
    rows: Sequence[Mapping[str, Any]] = reference_runs()["rows"]
    return rows


def run_row(row: Mapping[str, Any]) -> RowResult:
    """Replay one row as the artifact ran it."""
    scheduler = Scheduler(row["scheduler"])
    setup = published_setup(row["placement"])
    online = row["setting"] == "online"
    branches: dict[PeerId | None, int] = {}
    for link in setup.links:
        branches[link.source] = branches.get(link.source, 0) + 1
    by_chance = scheduler in {Scheduler.RANDOM, Scheduler.SHORTEST_QUEUE}
    draws = CHOICE_SEEDS if by_chance and max(branches.values()) > 1 else (None,)
    found: list[Figures] = [
        replay(
            setup,
            HelixRun(
                scheduler=scheduler,
                online=online,
                feed=row.get("feed", 1),
                arrival_tokens_per_s=row.get("arrival_tokens_per_s", 0.0),
                choice_seed=draw,
                warm_up_s=0.0 if online else 60.0,
                duration_s=ONLINE_S if online else 600.0,
            ),
        )
        for draw in draws
    ]
    return RowResult(
        case=row["case"],
        decode_tokens_per_s=sum(f.decode_tokens_per_s for f in found) / len(found),
        prompt_s=sum(f.mean_prompt_s for f in found) / len(found),
        decode_s=sum(f.mean_decode_s for f in found) / len(found),
        reference=row,
        prompt_percentiles_s=percentiles(found[0].prompt_s),
        decode_percentiles_s=percentiles(found[0].decode_s),
        kv_peak_share=max(max(f.kv_peak_share.values()) for f in found),
        virtual_s=found[0].end_s,
        events=sum(f.events for f in found),
    )
