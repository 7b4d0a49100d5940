"""Clients that ask one prompt after another while something happens to the swarm.

Always: every answer is compared with the unbroken one; a request fails only with a typed error, and
each is counted.
"""

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from helix_p2p import Swarm
from tests.faults.arena import USERS_PROMPTS, ask, whole


@dataclass
class Done:
    """One finished request.

    Attributes:
        began_s: When it was asked.
        first_s: Time to its first token; None without one.
        ended_s: When it was over.
        peers: Of its last pipeline.
        error: Code of its typed error; None when it finished.
    """

    began_s: float
    first_s: float | None
    ended_s: float
    peers: tuple[str, ...]
    error: str | None
    same: bool
    repeated: bool = False


@dataclass
class Load:
    """A number of clients, each asking without a pause; used as `async with`."""

    swarm: Swarm
    clients: int
    tokens: int
    done: list[Done] = field(default_factory=list)
    _expected: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _stop: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        for prompt in USERS_PROMPTS[: self.clients]:
            self._expected[prompt] = await whole(self.swarm, prompt, self.tokens)
        prompts = itertools.islice(itertools.cycle(self._expected), self.clients)
        self._tasks = [asyncio.create_task(self._ask(prompt)) for prompt in prompts]
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stop = True
        async with asyncio.timeout(120):
            await asyncio.gather(*self._tasks)

    async def _ask(self, prompt: str) -> None:
        while not self._stop:
            began_s = time.monotonic()
            answer, stream = ask(self.swarm, prompt, self.tokens)
            await answer.run(stream)
            expected = self._expected[prompt]
            self.done.append(
                Done(
                    began_s,
                    answer.moments_s[0] - began_s if answer.moments_s else None,
                    time.monotonic(),
                    tuple(peer for peer, _ in answer.pipeline),
                    answer.error.code if answer.error else None,
                    tuple(answer.tokens) == expected[: len(answer.tokens)],
                    len(answer.tokens) > len(expected),
                )
            )
            if answer.error is not None:
                await asyncio.sleep(0.2)

    @property
    def failed(self) -> Counter[str]:
        """Typed errors, by code."""
        return Counter(it.error for it in self.done if it.error)

    @property
    def wrong(self) -> int:
        """Answers with a wrong or a repeated token."""
        return sum(not it.same or it.repeated for it in self.done)

    async def some_more(self, count: int, timeout_s: float = 120.0) -> None:
        """Wait for so many more answers."""
        wanted = len(self.done) + count
        async with asyncio.timeout(timeout_s):
            while len(self.done) < wanted:  # noqa: ASYNC110 - tasks of this load
                await asyncio.sleep(0.05)

    def words(self) -> str:
        """What became of the requests."""
        errors = ", ".join(f"{n} {code}" for code, n in self.failed.items()) or "none"
        good = len(self.done) - sum(self.failed.values())
        return f"{good}/{len(self.done)} requests complete (errors: {errors}), {self.wrong} wrong"
