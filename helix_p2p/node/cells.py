"""A node's knowledge of how many cells its swarm has, and its part in keeping that known.

The root's word stands in the DHT, where every node reads it now and then; some write it again, so
that it outlives the bootstrap node that made it. On disk it lets a restart find its cell without
either.

Always: the word is believed under the root's signature alone, and none replaces one of a higher
serial; an open swarm, which has no root, has one cell.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from helix_p2p import codec
from helix_p2p.errors import HelixError
from helix_p2p.identity import Signed
from helix_p2p.membership.cell_count import CellCount, later_of, open_cells
from helix_p2p.membership.records import RECORD_LIFE_S, RECORD_LIMIT_BYTES, cells_key
from helix_p2p.net.dht import Directory
from helix_p2p.node.joining import Belonging
from helix_p2p.node.state import StateDir

READ_EVERY_S = 60.0
FIRST_READ_S = 3.0
"""How long a start waits for the DHT; without an answer what the disk says holds."""
WRITE_EVERY_S = RECORD_LIFE_S / 3
WRITERS = 6
"""So many nodes write the word again in each period, whatever the swarm's size."""

log = logging.getLogger(__name__)


class CellsKnown:
    """See the module's description.

    Args:
        belonging: Our swarm.
        state: Where the word is kept.
        directory: The DHT.
    """

    def __init__(self, belonging: Belonging, state: StateDir, directory: Directory) -> None:
        self._swarm = belonging.swarm
        self._root = belonging.root_public_key
        self._state = state
        self._directory = directory
        self.record: Signed | None = None
        self._said = CellCount(-1, 1)
        held = state.cells()
        if held is not None:
            self._believe(held)

    @property
    def count(self) -> int:
        """How many cells there are."""
        return self._said.cells

    @property
    def serial(self) -> int:
        """Of the word that holds here; -1 without one."""
        return self._said.serial

    async def begin(self) -> None:
        """Read the word before anything depends on it; not for long."""
        if self._root is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_READ_S):
                await self._read()

    async def run(self, among: Callable[[], int]) -> None:
        """Read it now and then, and write it in turn, until cancelled.

        Args:
            among: How many nodes share the writing.
        """
        if self._root is None:
            return
        while True:
            await asyncio.sleep(READ_EVERY_S * random.uniform(0.8, 1.2))
            await self._read()
            if random.random() * among() < WRITERS * READ_EVERY_S / WRITE_EVERY_S:
                await self.write()

    async def take(self, record: Signed) -> bool:
        """Believe a word, if it is the root's and later than ours.

        Returns:
            Whether it is news; then it is on disk.
        """
        if not self._believe(record):
            return False
        try:
            await asyncio.to_thread(self._state.keep_cells, record)
        except HelixError as error:
            log.warning("the number of cells could not be kept: %s", error)
        return True

    async def write(self) -> None:
        """Put the word into the DHT (again)."""
        if self.record is None:
            return
        with contextlib.suppress(HelixError):
            await self._directory.publish(
                cells_key(self._swarm),
                self.record.signer,
                codec.encode(self.record),
                RECORD_LIFE_S,
            )

    async def _read(self) -> None:
        try:
            found = await self._directory.look_up(cells_key(self._swarm))
        except HelixError as error:
            log.debug("the number of cells was not found: %s", error)
            return
        for value in found.values():
            with contextlib.suppress(HelixError):
                await self.take(codec.decode(value, Signed, limit_bytes=RECORD_LIMIT_BYTES))

    def _believe(self, record: Signed) -> bool:
        if self._root is None or record == self.record:
            return False
        try:
            said = open_cells(record, self._swarm, self._root)
            if later_of(record, self.record) != record:
                return False
        except HelixError as error:
            log.debug("a number of cells is not believed: %s", error)
            return False
        self.record, self._said = record, said
        return True
