"""Running a service until somebody stops it, politely first; and questions that may be stopped.

Always: the first signal (Ctrl-C, SIGTERM, a closed terminal) asks for a graceful end, or cancels a
start that has not come to `begun` yet; the next one cancels (what was started is still stopped),
the one after it ends the process on the spot. Python skips `finally` on SIGTERM unless the signal
is handled, and a daemon would outlive us; hence one place for it.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from helix_p2p.cli.errors import EXIT_INTERRUPTED
from helix_p2p.net.event_loop import new_event_loop

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a service manager, a terminal that is closed."""


class StopRequest:
    """What a service waits for besides its work."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._cancelled = False
        self._begun = False
        self._task = asyncio.current_task()

    @property
    def asked(self) -> bool:
        """Whether somebody asked for the end."""
        return self._asked.is_set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the end is asked for, or for `timeout_s`; whether it is."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._asked.wait()
        except TimeoutError:
            return False
        return True

    def begun(self) -> None:
        """The service is up: from now on it can end gracefully."""
        self._begun = True

    def beginning(self) -> None:
        """It starts once more: until it is up again, asking cancels the start."""
        self._begun = False

    def ask(self) -> None:
        """Ask once more, as a signal does."""
        if self._begun and not self.asked:
            self._asked.set()
        elif not self._cancelled and self._task is not None:
            self._cancelled = True
            self._asked.set()
            self._task.cancel()
        else:
            os._exit(EXIT_INTERRUPTED)


def run_service(service: Callable[[StopRequest], Awaitable[None]]) -> None:
    """Run `service` on a fresh event loop (uvloop where there is one) until it returns.

    Raises:
        KeyboardInterrupt: It was asked to stop twice, or before it had begun.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            runner.run(_serve(service))
        except asyncio.CancelledError as error:
            raise KeyboardInterrupt from error


def run_once(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on a fresh event loop until it returns; a signal cancels it.

    Raises:
        KeyboardInterrupt: It was asked to stop.
    """
    results: list[T] = []

    async def service(_stop: StopRequest) -> None:
        results.append(await work)

    run_service(service)
    return results[0]


async def _serve(service: Callable[[StopRequest], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    stop = StopRequest()
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heeded = [it for it in SIGNALS if not (nohup and it is signal.SIGHUP)]
    for number in heeded:
        loop.add_signal_handler(number, stop.ask)
    try:
        await service(stop)
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)
