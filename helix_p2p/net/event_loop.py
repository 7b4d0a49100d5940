"""The event loop of services, commands and blocking clients: uvloop where there is one.

It takes about a third off what small frames cost, which is most of what a swarm does besides
computing.
"""

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop that is not running yet; asyncio's own on systems that uvloop does not know."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
