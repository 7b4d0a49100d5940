"""What a bootstrap node does for a swarm of cells: it says how many there are, and looks into each.

Always: a new number comes only once those who had to move for the last one have moved; cells are
looked into in turn, so that a large swarm is no more work at a time than a small one.
"""

import asyncio
import time
from dataclasses import replace

from helix_p2p.cluster.announcement import PeerState, open_announcement
from helix_p2p.errors import HelixError
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cell_count import CellCount, write_cells
from helix_p2p.membership.cells import cells_for
from helix_p2p.node.config import MOVE_WITHIN_S
from helix_p2p.node.events import NodeEvent, OnEvent
from helix_p2p.node.presence import Presence
from helix_p2p.node.status import CellStatus

RECOUNT_S = 30.0
SETTLED_S = 2 * MOVE_WITHIN_S
"""So long after a word on cells those who move have moved, and are counted."""
SURVEY_S = 120.0
"""Each cell is looked into once in this time."""


class CellKeeper:
    """See the module's description.

    Args:
        here: The node's presence, in the first cell.
        root: The swarm's root key.
        wanted: How many cells there are to be; None leaves it to the number of peers.
        on_event: Told of a new number.
    """

    def __init__(
        self, here: Presence, root: Identity, wanted: int | None, on_event: OnEvent
    ) -> None:
        self._here = here
        self._root = root
        self._wanted = wanted
        self._on_event = on_event
        self._seen: dict[int, tuple[float, CellStatus]] = {}
        self._serial, self._heard_s = here.cells.serial, time.monotonic()

    @property
    def elsewhere(self) -> tuple[CellStatus, ...]:
        """The other cells, as far as they were looked into."""
        now_s, cells = time.monotonic(), range(1, self._here.cells.count)
        seen = [self._seen[cell] for cell in cells if cell in self._seen]
        return tuple(replace(status, age_s=now_s - seen_s) for seen_s, status in seen)

    async def count(self) -> None:
        """Say how many cells there are to be: what was asked for, or what the peers need.

        A word's serial is its time, which keeps words apart that two bootstrap nodes of one swarm
        say. Until all have moved, the first cell tells nothing of the others.
        """
        wanted, known = self._wanted, self._here.cells
        while True:
            nodes = self._here.nodes()
            if self._wanted is None and self._settled():
                wanted = cells_for(nodes, known.count)
            if wanted is not None and wanted != known.count:
                said = CellCount(max(known.serial + 1, int(time.time())), wanted)
                await known.take(write_cells(self._root, said))
                text = f"from now on the swarm has {wanted} cells, for {nodes} nodes"
                self._on_event(NodeEvent("cells", text, {"cells": wanted}))
            wanted = None
            await known.write()
            await asyncio.sleep(RECOUNT_S)

    def _settled(self) -> bool:
        """Whether the last word is old enough, by its serial or, if that lies ahead, by our own."""
        serial, now_s = self._here.cells.serial, time.monotonic()
        if serial != self._serial:
            self._serial, self._heard_s = serial, now_s
        return max(time.time() - serial, now_s - self._heard_s) > SETTLED_S

    async def survey(self) -> None:
        """Look into one cell after another."""
        cell = 0
        while True:
            cells = self._here.cells.count
            cell = (cell + 1) % cells
            if cell:
                records = await self._here.look_into(cell)
                self._seen[cell] = (time.monotonic(), _summed(cell, records))
            await asyncio.sleep(SURVEY_S / cells)


def _summed(cell: int, records: tuple[Signed, ...]) -> CellStatus:
    peers = serving = memory_bytes = 0
    for record in records:
        try:
            said = open_announcement(record, record.swarm)
        except HelixError:
            continue  # of another version
        peers += said.speed is not None
        serving += said.state is PeerState.SERVING
        memory_bytes += said.memory_bytes
    return CellStatus(cell, peers, serving, memory_bytes)
