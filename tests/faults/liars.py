"""A peer that boasts: how long plans believe it, and what it gets of them."""

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from helix_p2p import Swarm
from helix_p2p.cluster.announcement import Announcement
from helix_p2p.cluster.belief import DOUBT, FULL_BELIEF, Belief, beliefs
from helix_p2p.engine.smollm2 import fetch_smollm2
from helix_p2p.planning.plan import Plan
from helix_p2p.types import PeerId
from tests.e2e.lab import BIN
from tests.faults.arena import USERS_PROMPTS, swarm_of, whole
from tests.faults.table import Figures, Measured, Setting

HONEST_MB = (330,) * 5
SLOTS_S = 3 * 30.0
SETTLED_S = 45.0
"""By then honest peers have timed each other twice, and are sure."""
LOOKS_S = 100.0
TOKENS = 30


@dataclass(frozen=True, slots=True)
class Look:
    """What the swarm makes of the liar at one moment.

    Attributes:
        after_s: Since the liar was first planned with.
        belief: What its witnesses' words come to; the next plan counts on that.
        claims: How many times faster it says it is than the honest middle.
        share: Its layers times flow in the plan in force, against an honest peer's mean.
        honest: Honest peers that were found slow.
        lines: Honest peers whose line is not believed: loopback's width varies with the load.
    """

    after_s: float
    belief: Belief
    claims: float
    share: float
    honest: int
    lines: int


async def boast(setting: Setting) -> Measured:
    """Five honest peers know each other; then one joins that says ten times as much."""
    model, cache = fetch_smollm2(), {"XDG_CACHE_HOME": str(setting.folder / "cache")}
    await _measure(model, cache)
    async with (
        swarm_of(setting, model, HONEST_MB, environment=cache) as lab,
        Swarm.connect(await lab.guest()) as swarm,
    ):
        expected = await whole(swarm, USERS_PROMPTS[0], TOKENS)
        await asyncio.sleep(SETTLED_S)
        lab.peer_command = ("python", str(Path(__file__).with_name("lying_peer.py")))
        liar = await lab.peer("liar", HONEST_MB[0])
        await liar.wait_for(lambda e: e["event"] == "joined", 120)
        peer = PeerId(lab.peer_id("liar"))
        looks = await _watch(swarm, peer)
        answers = [await whole(swarm, USERS_PROMPTS[0], TOKENS) for _ in range(3)]
    for look in looks:
        setting.say(str(look))
    first, last = looks[0], looks[-1]
    slow = _first_s(looks, lambda it: it.belief.slower > DOUBT)
    line = _first_s(looks, lambda it: it.belief.uplink_bytes_per_s is not None)
    wrong = sum(answer != expected for answer in answers)
    most = max(it.share for it in looks)
    said = (
        f"says {first.claims:.0f}× the speed of five honest peers: believed a "
        f"{last.belief.slower:.0f}th of it after {_words(slow)}, and the line that others "
        f"measured after {_words(line)}; its share of the work {most:.1f}× an honest "
        f"peer's at most, {last.share:.1f}× at the end; honest peers found slow: "
        f"{max(it.honest for it in looks)}; {wrong} of {len(answers)} answers wrong"
    )
    in_time = all(moment is not None and moment <= SLOTS_S for moment in (slow, line))
    kept = in_time and last.share < 2.0 and last.honest == 0 and not wrong
    figures: Figures = {"speed_s": slow, "line_s": line, "share": last.share, "lines": last.lines}
    return Measured(said, kept, figures)


async def _measure(model: Path, environment: dict[str, str]) -> None:
    """This machine's true speed, while nothing else runs here, for all peers to remember."""
    words = ("bench", f"--model={model}", "--device=cpu", "--threads=1", "--quick", "--json")
    process = await asyncio.create_subprocess_exec(
        str(BIN / "helix-peer"),
        *words,
        f"--max-memory={HONEST_MB[0]}MB",
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0, "helix-peer bench"


async def _watch(swarm: Swarm, liar: PeerId) -> list[Look]:
    """What the swarm says and plans from the first plan with the liar in it, whenever that changes.

    A doubt need not bring a new plan: where placement and flow would stay, so does the plan.
    """
    looks: list[Look] = []
    seen: tuple[int, Belief] | None = None
    began_s = float("inf")
    ends_s = time.monotonic() + LOOKS_S
    while time.monotonic() < ends_s:
        await swarm.refresh()
        signed, said = swarm.view.plan, swarm.view.members
        if signed is not None and signed.plan.placement.range_of(liar) and liar in said:
            began_s = min(began_s, time.monotonic())
            look = _look(signed.plan, said, liar, time.monotonic() - began_s)
            if (signed.plan.epoch, look.belief) != seen:
                seen = (signed.plan.epoch, look.belief)
                looks.append(look)
        await asyncio.sleep(0.5)
    assert looks, "no plan was made with the liar"
    return looks


def _look(plan: Plan, said: Mapping[PeerId, Announcement], liar: PeerId, after_s: float) -> Look:
    step_s = {peer: word.speed.decode_s(1) for peer, word in said.items() if word.speed}
    found = beliefs(said)
    through = dict.fromkeys(step_s, 0.0)
    for edge in plan.placement.flows:
        if edge.target in through:
            layers = plan.placement.range_of(edge.target)
            through[edge.target] += edge.mtokens_per_s * len(layers or ())
    honest = [peer for peer in step_s if peer != liar]
    return Look(
        after_s,
        found.get(liar, FULL_BELIEF),
        median(step_s[peer] for peer in honest) / step_s[liar],
        through[liar] / max(1e-9, mean(through[peer] for peer in honest)),
        sum(found.get(peer, FULL_BELIEF).slower > DOUBT for peer in honest),
        sum(found.get(peer, FULL_BELIEF).uplink_bytes_per_s is not None for peer in honest),
    )


def _first_s(looks: list[Look], holds) -> float | None:  # type: ignore[no-untyped-def]
    return next((it.after_s for it in looks if holds(it)), None)


def _words(moment_s: float | None) -> str:
    return "never" if moment_s is None else f"{moment_s:.0f} s"
