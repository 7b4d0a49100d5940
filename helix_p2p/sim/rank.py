"""The judge of finalists: a short replay of each placement, best first.

Flow says what compute and links could carry at most; what is served also depends on how many
requests the KV cache keeps in flight and on how long a cycle is. A minute of virtual time in Helix
mode, begun with the caches as full as they get, tells placements apart in half a second each. Where
few requests finish in it, chance would decide; there it lasts longer, and costs no more, since a
slow swarm has few events.

Always: pure and deterministic; every placement gets the same requests and seed, and a window as
long as it takes to finish so many of them, within bounds; a placement that serves nothing ranks
last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import ConfigError
from helix_p2p.planning.appraisal import served_score
from helix_p2p.planning.options import LATENCY_WEIGHT, Judge, Served
from helix_p2p.planning.plan import Placement
from helix_p2p.sim.helix.figures import Figures
from helix_p2p.sim.helix.replay import HelixRun, replay
from helix_p2p.sim.helix.setup import HelixSetup, snapshot_setup

WARM_UP_S = 20.0
WINDOW_S = 60.0
JUDGED_WINDOW_S = 40.0
"""Of a judge's replay at least; shorter than a ranking's, since it is asked for dozens of
placements."""

FINISHED = 50
"""Requests in a window. On the paper's L4s and T4s, which finish seven in 40 s, what a replay gives
then strays by 3.6 % from seed to seed instead of 9 and 15."""

LONGEST_WINDOW_S = 400.0
"""However few finish: at 24 peers no replay takes longer than half a second of CPU."""

JUDGES_SEED = 7
"""Of the requests that a planner's judge replays, apart from finals. Reports use others."""

FINAL_FINISHED, LONGEST_FINAL_S, FINAL_SEEDS = 300, 1200.0, (71, 72)
"""Likewise of the finals, 1 to 2 s of CPU each at 24 peers: with 350 requests in flight a window of
40 s sees each of them for a tenth of its life."""

FINAL_ONLINE_S = 600.0
"""Of a final with arrivals, which come in bursts as the trace's do."""

SetupOf = Callable[[Snapshot, Placement], HelixSetup]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One finalist's verdict.

    Attributes:
        index: Its place among the placements passed.
        score: Tokens per second, less what long waits take away.
        decode_tokens_per_s: Served in the window.
        mean_prompt_s: Mean latency of a prompt.
        mean_decode_s: Mean latency of a token.
        dropped: Requests that found no room.
    """

    index: int
    score: float
    decode_tokens_per_s: float
    mean_prompt_s: float
    mean_decode_s: float
    dropped: int


def rank(
    snapshot: Snapshot,
    placements: Sequence[Placement],
    *,
    window_s: float = WINDOW_S,
    seed: int = 0,
    latency_weight: float = LATENCY_WEIGHT,
) -> tuple[Ranked, ...]:
    """Replay placements over a swarm and order them, best first.

    Args:
        snapshot: The swarm.
        placements: Finalists, each with its flows.
        window_s: Virtual seconds that count at least, after a warm-up.
        seed: Of the requests.
        latency_weight: How much waiting counts, as in `PlanOptions`.

    Raises:
        ConfigError: There is nothing to rank, or it is not known how fast a peer is.
    """
    return rank_setups(
        [snapshot_setup(snapshot, placement) for placement in placements],
        window_s=window_s,
        seed=seed,
        latency_weight=latency_weight,
    )


def rank_setups(
    setups: Sequence[HelixSetup],
    *,
    window_s: float = WINDOW_S,
    seed: int = 0,
    latency_weight: float = LATENCY_WEIGHT,
) -> tuple[Ranked, ...]:
    """As `rank`, for placements that are set up already."""
    if not setups:
        raise ConfigError("there is no placement to rank")
    run = _run(window_s, seed)
    ranked = [
        _verdict(index, replay(setup, run), latency_weight) for index, setup in enumerate(setups)
    ]
    return tuple(sorted(ranked, key=lambda one: (-one.score, one.index)))


def judge(
    setup_of: SetupOf = snapshot_setup,
    *,
    window_s: float = JUDGED_WINDOW_S,
    arrival_tokens_per_s: float | None = None,
) -> Judge:
    """A judge of finalists for `PlanOptions.judge`.

    Args:
        setup_of: How a placement is set up for replay.
        window_s: Virtual seconds that count at least, after a warm-up.
        arrival_tokens_per_s: Asked for by people online, where that is known: finals then also
            replay such a load, which counts as much as the closed loop.
    """
    runs = [_run(window_s, JUDGES_SEED)]
    for seed in FINAL_SEEDS:
        closed = _run(window_s, seed)
        runs.append(replace(closed, least_finished=FINAL_FINISHED, longest_s=LONGEST_FINAL_S))
        if arrival_tokens_per_s is not None:
            runs.append(
                HelixRun(
                    online=True,
                    arrival_tokens_per_s=arrival_tokens_per_s,
                    seed=seed,
                    duration_s=FINAL_ONLINE_S,
                )
            )

    def serves(snapshot: Snapshot, placement: Placement, trial: int) -> Served:
        found = replay(setup_of(snapshot, placement), runs[trial])
        return Served(found.decode_tokens_per_s, found.mean_decode_s)

    return Judge(serves, finals=len(runs) - 1)


def _run(window_s: float, seed: int) -> HelixRun:
    return HelixRun(
        seed=seed,
        warm_up_s=WARM_UP_S,
        duration_s=window_s,
        least_finished=FINISHED,
        longest_s=max(window_s, LONGEST_WINDOW_S),
        begin_full=True,
    )


def _verdict(index: int, figures: Figures, latency_weight: float) -> Ranked:
    served = figures.decode_tokens_per_s
    return Ranked(
        index,
        served_score(served, figures.mean_decode_s, latency_weight),
        served,
        figures.mean_prompt_s,
        figures.mean_decode_s,
        figures.dropped,
    )
