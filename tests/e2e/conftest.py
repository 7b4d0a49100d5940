from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e.lab import Lab, lab


class MakeSwarm(Protocol):
    def __call__(self, *memory_mb: int) -> AbstractAsyncContextManager[Lab]: ...


@pytest.fixture
def swarm_of(tmp_path: Path, smollm2: Path) -> MakeSwarm:
    """Start a bootstrap node and peers p0, p1, … with so much memory each, all serving."""

    @asynccontextmanager
    async def make(*memory_mb: int) -> AsyncIterator[Lab]:
        async with lab(tmp_path, smollm2) as made:
            await made.bootstrap()
            names = [f"p{number}" for number in range(len(memory_mb))]
            for name, memory in zip(names, memory_mb, strict=True):
                await made.peer(name, memory)
            await made.serving(*names)
            yield made

    return make
