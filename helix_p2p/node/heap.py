"""Memory that a peer no longer uses goes back to the machine that lends it.

Long prompts and the copies for checks come and go by tens of megabytes. glibc keeps what is freed
between things that stay, and over hours touches ever more of it. Always: nothing that is in use
moves; where the C library has no such question, nothing is done.
"""

import asyncio

from helix_p2p.engine.memory import trim_heap
from helix_p2p.net.event_loop import next_tick

TRIM_EVERY_S = 60.0
"""As long as copies for checks are kept; with 35 MB to give back it takes 1 to 4 ms."""


async def keep_small() -> None:
    """Give back, for ever."""
    while True:
        await next_tick(TRIM_EVERY_S)
        await asyncio.to_thread(trim_heap)
