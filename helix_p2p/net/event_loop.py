"""The event loop of services, commands and blocking clients, and how what is periodic runs on it.

uvloop where there is one: small frames, which are most of what a swarm does besides computing,
cost less on it. Whatever looks at deadlines several times a second does so at common moments:
waking an idle process costs more than what most of it does then.
"""

import asyncio
import random

_PHASE = random.random()
"""Or all processes of a machine would wake together."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop that is not running yet; asyncio's own on systems that uvloop does not know."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def next_tick(period_s: float) -> None:
    """Sleep for about `period_s`, until a moment that everything with this period shares.

    The moments of a period are among those of its half, its quarter and so on.
    """
    now_s = asyncio.get_running_loop().time() + _PHASE
    left_s = period_s - now_s % period_s
    await asyncio.sleep(left_s if left_s > period_s / 4 else left_s + period_s)
