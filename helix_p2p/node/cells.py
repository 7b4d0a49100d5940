"""A node's knowledge of how many cells its swarm has.

Always: the word is believed under the root's signature alone, and none replaces a later one; what
is believed is on disk, so that a restart finds its cell; an open swarm, which has no root, has one
cell.
"""

import asyncio
import logging

from helix_p2p.errors import ConfigError, HelixError
from helix_p2p.identity import Signed
from helix_p2p.membership.cell_count import CellCount, later_of, open_cells
from helix_p2p.node.joining import Belonging
from helix_p2p.node.state import StateDir

log = logging.getLogger(__name__)


class CellsKnown:
    """See the module's description.

    Args:
        belonging: Our swarm.
        state: Where the word is kept.
    """

    def __init__(self, belonging: Belonging, state: StateDir) -> None:
        self._swarm = belonging.swarm
        self._root = belonging.root_public_key
        self._state = state
        self.record: Signed | None = None
        self._said = CellCount(-1, 1)
        self._damaged = False
        self.read_disk()

    @property
    def count(self) -> int:
        """How many cells there are."""
        return self._said.cells

    @property
    def serial(self) -> int:
        """Of the word that holds here; -1 without one."""
        return self._said.serial

    def read_disk(self) -> None:
        """Take up what lies on disk; a damaged file is asked for again from others."""
        try:
            held = self._state.cells()
        except ConfigError as error:
            if not self._damaged:  # it is read every second
                log.warning("%s", error)
            self._damaged = True
            return
        self._damaged = False
        if held is not None:
            self._believe(held)

    async def take(self, record: Signed) -> bool:
        """Believe a word, if it is the root's and later than ours.

        Returns:
            Whether it is news; then it is on disk, unless the disk refuses.
        """
        if not self._believe(record):
            return False
        try:
            await asyncio.to_thread(self._state.keep_cells, record)
        except HelixError as error:
            log.warning("the number of cells could not be kept: %s", error)
        return True

    def _believe(self, record: Signed) -> bool:
        if self._root is None or record == self.record:
            return False
        try:
            said = open_cells(record, self._swarm, self._root)
            if later_of(record, self.record) != record:
                return False
        except HelixError as error:
            log.info("a number of cells is not believed: %s", error)
            return False
        self.record, self._said = record, said
        return True
