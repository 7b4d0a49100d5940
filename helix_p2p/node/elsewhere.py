"""The members of other cells, as the DHT names them, for those who ask.

Always: however many ask, a cell is looked up once at a time and a few cells at once; what was found
a moment ago is told while it is looked up again; when nothing could be looked up that is said, not
told as emptiness.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from helix_p2p.identity import Signed

FRESH_S, KEPT_S = 10.0, 120.0
CELLS_AT_ONCE = 4

Records = tuple[Signed, ...]


class Elsewhere:
    """See the module's description.

    Args:
        read: Looks a cell's members up; raises a HelixError when that cannot be done.
    """

    def __init__(self, read: Callable[[int], Awaitable[Records]]) -> None:
        self._read = read
        self._kept: dict[int, tuple[float, Records]] = {}
        self._running: dict[int, asyncio.Task[Records]] = {}
        self._turns = asyncio.Semaphore(CELLS_AT_ONCE)

    async def members(self, cell: int) -> Records:
        """Who is in a cell.

        Raises:
            HelixError: It could not be looked up.
        """
        now_s = time.monotonic()
        self._kept = {c: seen for c, seen in self._kept.items() if now_s - seen[0] < KEPT_S}
        seen = self._kept.get(cell)
        if seen is not None and now_s - seen[0] < FRESH_S:
            return seen[1]
        task = self._running.get(cell)
        if task is None:
            task = self._running[cell] = asyncio.create_task(self._look_up(cell))
            task.add_done_callback(lambda done: self._over(cell, done))
        return seen[1] if seen is not None else await asyncio.shield(task)

    async def close(self) -> None:
        """Stop looking."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _look_up(self, cell: int) -> Records:
        async with self._turns:
            records = await self._read(cell)
        self._kept[cell] = (time.monotonic(), records)
        return records

    def _over(self, cell: int, task: "asyncio.Task[Records]") -> None:
        del self._running[cell]
        if not task.cancelled():
            task.exception()  # told to those who wait; nobody may be left
