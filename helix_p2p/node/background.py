"""Tasks that live as long as a block, and end it when one of them fails.

Always: leaving the block cancels them and waits for their end; a bug in one of them cancels the
block's body and comes out of it as the error itself, not wrapped in a group.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any


class Tasks:
    """Made by `background`."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self.all: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it returns or the block ends."""
        self.all.append(self._group.create_task(work))


@contextlib.asynccontextmanager
async def background() -> AsyncIterator[Tasks]:
    """A block with tasks."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = Tasks(group)
            try:
                yield tasks
            finally:
                for task in tasks.all:
                    task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
