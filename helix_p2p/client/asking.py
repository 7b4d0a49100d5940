"""Ask several machines the same thing: one after another, each with a head start.

The first good answer wins (staggered racing, as RFC 8305 does for addresses), so one dead machine
costs a head start, not its whole timeout, and a healthy swarm is asked once.

Always: at most one answer is taken; whatever still runs then is cancelled and waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from helix_p2p.errors import HelixError, NetworkError, PeerUnreachable
from helix_p2p.types import PeerId

T = TypeVar("T")


async def first_answer(
    ask: Callable[[PeerId], Awaitable[T]], sources: Sequence[PeerId], *, head_start_s: float
) -> tuple[PeerId, T]:
    """Who answered first, and what.

    Args:
        ask: One question to one peer; fails with a HelixError.
        sources: In the order of asking.
        head_start_s: How long one is waited for before the next is asked as well.

    Raises:
        PeerUnreachable: Nobody was reached.
        HelixError: Nobody gave a good answer; the most telling reason.
    """
    waiting = list(sources)
    running: dict[asyncio.Future[T], PeerId] = {}
    failures: list[HelixError] = []
    try:
        while waiting or running:
            if waiting:
                peer = waiting.pop(0)
                running[asyncio.ensure_future(ask(peer))] = peer
            done, _ = await asyncio.wait(
                running,
                timeout=head_start_s if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                peer = running.pop(task)
                try:
                    return peer, task.result()
                except HelixError as error:
                    failures.append(error)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    raise _most_telling(failures)


def _most_telling(failures: Sequence[HelixError]) -> HelixError:
    """A refusal says more than a dial that failed."""
    for error in failures:
        if not isinstance(error, NetworkError):
            return error
    last = failures[-1].message if failures else "no address is known"
    return PeerUnreachable(
        f"nobody in the swarm answers, {len(failures)} asked: {last}",
        hint="is the address right, and is a bootstrap node or peer running there?",
    )
