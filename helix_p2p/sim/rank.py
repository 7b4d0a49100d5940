"""The judge of finalists: a short replay of each placement, best first.

Flow says what compute and links could carry at most; what is served also depends on how many
requests the KV cache keeps in flight and on how long a cycle is. A minute of virtual time in Helix
mode, begun with the caches as full as they get, tells placements apart in half a second each.

Always: pure and deterministic; every placement gets the same requests, seed and window; a placement
that serves nothing ranks last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import ConfigError
from helix_p2p.planning.appraisal import served_score
from helix_p2p.planning.options import Judge
from helix_p2p.planning.plan import Placement
from helix_p2p.sim.helix.figures import Figures
from helix_p2p.sim.helix.replay import HelixRun, replay
from helix_p2p.sim.helix.setup import HelixSetup, snapshot_setup

WARM_UP_S = 20.0
WINDOW_S = 60.0
JUDGED_WINDOW_S = 40.0
"""Of a judge's replay; half as long as a ranking's, since it is asked for dozens of placements."""

JUDGES_SEED = 7
"""Of the requests that a planner's judge replays. Reports use others."""

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
) -> tuple[Ranked, ...]:
    """Replay placements over a swarm and order them, best first.

    Args:
        snapshot: The swarm.
        placements: Finalists, each with its flows.
        window_s: Virtual seconds that count, after a warm-up.
        seed: Of the requests.

    Raises:
        ConfigError: There is nothing to rank, or it is not known how fast a peer is.
    """
    return rank_setups(
        [snapshot_setup(snapshot, placement) for placement in placements],
        window_s=window_s,
        seed=seed,
    )


def rank_setups(
    setups: Sequence[HelixSetup], *, window_s: float = WINDOW_S, seed: int = 0
) -> tuple[Ranked, ...]:
    """As `rank`, for placements that are set up already."""
    if not setups:
        raise ConfigError("there is no placement to rank")
    run = HelixRun(seed=seed, warm_up_s=WARM_UP_S, duration_s=window_s, begin_full=True)
    ranked = [_verdict(index, replay(setup, run)) for index, setup in enumerate(setups)]
    return tuple(sorted(ranked, key=lambda one: (-one.score, one.index)))


def judge(
    setup_of: SetupOf = snapshot_setup,
    *,
    window_s: float = JUDGED_WINDOW_S,
    seeds: Sequence[int] = (JUDGES_SEED,),
) -> Judge:
    """A judge of finalists for `PlanOptions.judge`.

    Args:
        setup_of: How a placement is set up for replay.
        window_s: Virtual seconds that count, after a warm-up.
        seeds: Of the requests; verdicts are averaged over them.
    """

    def verdict(snapshot: Snapshot, placement: Placement) -> float:
        setup = setup_of(snapshot, placement)
        found = [rank_setups([setup], window_s=window_s, seed=seed)[0] for seed in seeds]
        return sum(one.score for one in found) / len(found)

    return verdict


def _verdict(index: int, figures: Figures) -> Ranked:
    served = figures.decode_tokens_per_s
    score = served_score(served, figures.mean_decode_s) if served > 0 else 0.0
    return Ranked(
        index,
        score,
        served,
        figures.mean_prompt_s,
        figures.mean_decode_s,
        figures.dropped,
    )
