"""What a bootstrap node does for a swarm of cells: it looks into each, and advises its operator.

How many cells there are stays the operator's word (`helix-bootstrap cells`): to move peers because
of what one node believes to see would tear a swarm at the first partition.

Always: cells are looked into in turn, so that a large swarm is no more work at a time than a small
one; advice rests on all cells, seen lately, and is given once.
"""

import asyncio
import logging
import time
from dataclasses import replace

from helix_p2p.cluster.announcement import Announcement, PeerState, open_announcement
from helix_p2p.errors import HelixError
from helix_p2p.membership.cells import cells_for
from helix_p2p.node.events import NodeEvent, OnEvent
from helix_p2p.node.presence import Presence
from helix_p2p.node.status import CellStatus

SURVEY_S = 120.0
"""Each cell is looked into once in this time."""
SEEN_LATELY_S = 3 * SURVEY_S

log = logging.getLogger(__name__)


class CellKeeper:
    """See the module's description.

    Args:
        here: The node's presence, in the first cell.
        on_event: Told of advice.
    """

    def __init__(self, here: Presence, on_event: OnEvent) -> None:
        self._here = here
        self._on_event = on_event
        self._seen: dict[int, tuple[float, CellStatus]] = {}
        self._advised = 0

    @property
    def elsewhere(self) -> tuple[CellStatus, ...]:
        """The other cells, as far as they were looked into."""
        now_s, cells = time.monotonic(), range(1, self._here.cells.count)
        seen = [self._seen[cell] for cell in cells if cell in self._seen]
        return tuple(replace(status, age_s=now_s - seen_s) for seen_s, status in seen)

    async def run(self) -> None:
        """Look into one cell after another, and advise after each, until cancelled."""
        cell = 0
        while True:
            cells = self._here.cells.count
            await asyncio.sleep(SURVEY_S / cells)
            cell = (cell + 1) % cells
            if cell:
                await self._look_into(cell)
            self._advise()

    async def _look_into(self, cell: int) -> None:
        try:
            records = await self._here.elsewhere.members(cell)
        except HelixError as error:
            log.info("cell %d could not be looked into: %s", cell, error)
            return
        said = []
        for record in records:
            try:
                said.append(open_announcement(record, record.swarm))
            except HelixError:
                continue  # of another version
        self._seen[cell] = (time.monotonic(), summed(cell, said))

    def _advise(self) -> None:
        cells, others = self._here.cells.count, self.elsewhere
        if len(others) + 1 < cells or any(it.age_s > SEEN_LATELY_S for it in others):
            return
        own = summed(0, list(self._here.member.announcements().values()))
        peers = own.peers + sum(it.peers for it in others)
        memory_bytes = own.memory_bytes + sum(it.memory_bytes for it in others)
        better = cells_for(peers, cells)
        if better == cells:
            self._advised = 0
        elif better != self._advised:
            self._advised = better
            each_gb = memory_bytes / better / 1e9
            text = (
                f"{peers} peers in {cells} {'cell' if cells == 1 else 'cells'}: "
                f"`helix-bootstrap cells {better}` would be better, if {each_gb:.0f} GB in each "
                "hold the whole model well"
            )
            data = {"peers": peers, "cells": better, "memory_bytes": memory_bytes}
            self._on_event(NodeEvent("advice", text, data))


def summed(cell: int, said: list[Announcement]) -> CellStatus:
    """What the members of a cell lend together; bootstrap nodes lend nothing."""
    return CellStatus(
        cell,
        peers=sum(one.speed is not None for one in said),
        serving=sum(one.state is PeerState.SERVING for one in said),
        memory_bytes=sum(one.memory_bytes for one in said),
    )
