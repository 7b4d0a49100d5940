"""Answers that are broken on purpose, several at once, and counted against the unbroken ones.

Always: an answer counts as broken when its pipeline, as its client knew it, held a peer that was
taken away; what comes out of it is the same, wrong, or a typed error, and how long it took.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from helix_p2p import Swarm
from tests.e2e.lab import Lab
from tests.faults.arena import SAMPLED, USERS_PROMPTS, Answer, ask, quantile, until, whole
from tests.faults.table import Figures, Setting

ANSWERS_AT_ONCE = 4
PROMPTS = USERS_PROMPTS[:4]
MODES: dict[str, dict[str, float | int]] = {"greedy": {}, "seeded": SAMPLED}


@dataclass
class Tally:
    """What happened to the answers that were broken.

    Attributes:
        delays_s: Added delay of each that went on.
        positions: How often the killed peer was entry, middle or last stage.
        refused: Typed errors.
        wrong: Answers with other tokens than the unbroken run.
        longest_s: Longest silence after a break.
    """

    broken: int = 0
    same: int = 0
    delays_s: list[float] = field(default_factory=list)
    positions: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    wrong: int = 0
    longest_s: float = 0.0

    def words(self) -> str:
        """What became of the answers."""
        where = ", ".join(f"{n} {position}" for position, n in sorted(self.positions.items()))
        how = ", ".join(f"{n} {mode}" for mode, n in sorted(self.modes.items()))
        codes = ", ".join(f"{n} {code}" for code, n in Counter(self.refused).items())
        refused = f", {len(self.refused)} typed errors ({codes})" if self.refused else ""
        wrong = f", {self.wrong} wrong" if self.wrong else ""
        return (
            f"{self.same}/{self.broken} answers the same as unbroken{refused}{wrong} "
            f"({where}; {how})"
        )

    def delays(self) -> str:
        """The added delays in words."""
        if not self.delays_s:
            return "no answer went on"
        return (
            f"added delay p50 {self.delay_s(0.5):.2f} s, p95 {self.delay_s(0.95):.2f} s, "
            f"most {self.delay_s(1.0):.2f} s"
        )

    def delay_s(self, share: float) -> float:
        """The added delay that so many of all do not exceed."""
        return quantile(self.delays_s, share) if self.delays_s else float("inf")

    def figures(self) -> Figures:
        """Raw numbers."""
        return {
            "broken": self.broken,
            "same": self.same,
            "wrong": self.wrong,
            "refused": ", ".join(self.refused),
            "delays_s": " ".join(f"{delay_s:.3f}" for delay_s in self.delays_s),
            "longest_silence_s": round(self.longest_s, 3),
        }


def position_of(index: int, stages: int) -> str:
    """What a stage is called."""
    return "entry" if index == 0 else "last" if index == stages - 1 else "middle"


class Battle:
    """One swarm, its client, and the unbroken answers to compare with."""

    def __init__(self, setting: Setting, lab: Lab, swarm: Swarm, tokens: int = 48) -> None:
        self.tokens = tokens
        self.setting = setting
        self.lab = lab
        self.swarm = swarm
        self.random = random.Random(setting.seed)
        self.expected: dict[tuple[str, str], tuple[int, ...]] = {}
        self.tally = Tally()
        self._cases = itertools.cycle(itertools.product(PROMPTS, MODES))

    async def learn(self) -> None:
        """Make every unbroken answer."""
        for mode, options in MODES.items():
            answers = (whole(self.swarm, prompt, self.tokens, **options) for prompt in PROMPTS)
            for prompt, tokens in zip(PROMPTS, await asyncio.gather(*answers), strict=True):
                self.expected[prompt, mode] = tokens

    async def begin(self) -> list[tuple[str, Answer, asyncio.Task[Answer]]]:
        """Several answers at once, a few tokens in."""
        running = []
        for prompt, mode in itertools.islice(self._cases, ANSWERS_AT_ONCE):
            answer, stream = ask(self.swarm, prompt, self.tokens, **MODES[mode])
            running.append((mode, answer, asyncio.create_task(answer.run(stream))))
        least = self.random.randrange(4, 16)
        await until(
            lambda: all(len(answer.tokens) >= least or answer.ended_s for _, answer, _ in running),
            60.0,
            f"token {least} of every answer",
        )
        return running

    def choose(self, answers: list[Answer], wanted: str) -> str:
        """A peer at the wanted position of one of the pipelines, by its name in the lab."""
        at = [
            peer
            for answer in answers
            for index, (peer, _) in enumerate(answer.pipeline)
            if position_of(index, len(answer.pipeline)) == wanted
        ]
        others = [peer for answer in answers for peer, _ in answer.pipeline[:1]]
        return self.lab.name_of(self.random.choice(at or others))

    async def end(
        self,
        running: list[tuple[str, Answer, asyncio.Task[Answer]]],
        victims: set[str],
        at_s: float,
    ) -> None:
        """Wait for the answers and count those that were broken at `at_s`."""
        ids = {self.lab.peer_id(name) for name in victims}
        known = {
            id(a): [p for m, p in zip(a.moments_s, a.pipelines, strict=True) if m <= at_s]
            for _, a, _ in running
        }
        async with asyncio.timeout(120):
            await asyncio.gather(*(task for _, _, task in running))
        for mode, answer, _ in running:
            before = known[id(answer)]
            pipeline = before[-1] if before else ()
            hit = [i for i, (peer, _) in enumerate(pipeline) if peer in ids]
            if not hit or len(before) >= self.tokens:
                continue
            tally = self.tally
            tally.broken += 1
            tally.modes[mode] += 1
            tally.positions[position_of(hit[0], len(pipeline))] += 1
            moments = [at_s, *(m for m in answer.moments_s if m > at_s)]
            moments.append(answer.ended_s or time.monotonic())
            tally.longest_s = max(tally.longest_s, *(b - a for a, b in itertools.pairwise(moments)))
            if answer.error is not None:
                tally.refused.append(answer.error.code)
            elif tuple(answer.tokens) == self.expected[answer.name, mode]:
                tally.same += 1
                delay_s = answer.added_delay_s(at_s)
                if delay_s is not None:
                    tally.delays_s.append(delay_s)
            else:
                tally.wrong += 1

    async def heal(self, *names: str) -> None:
        """Start killed peers again and wait until they serve."""
        for name in names:
            again = await self.lab.restart(name)
            await again.wait_for(lambda e: e.get("state") == "serving", 120)
