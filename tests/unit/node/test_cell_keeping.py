"""How many cells a bootstrap node says there are, and what it sees in them."""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cell_count import CellCount, write_cells
from helix_p2p.membership.cells import CELL_FULL, CELL_GOOD, cell_id
from helix_p2p.membership.credentials import swarm_id_of
from helix_p2p.net.dht import MemoryDirectory
from helix_p2p.node import cell_keeping
from helix_p2p.node.cell_keeping import CellKeeper
from helix_p2p.node.cells import CellsKnown
from helix_p2p.node.events import NodeEvent
from helix_p2p.node.joining import Belonging
from helix_p2p.node.presence import Presence
from helix_p2p.node.state import StateDir

ROOT = Identity(bytes([1] * 32))
SWARM = swarm_id_of(ROOT.public_key)
SPEED = SpeedProfile(((64, 0.01),), ((1, 0.001), (8, 0.002)))


@dataclass
class Here:
    """As much of a presence as is asked."""

    cells: CellsKnown
    in_first_cell: int = 1
    members: dict[int, tuple[Signed, ...]] = field(default_factory=dict)

    def nodes(self) -> int:
        return self.cells.count * self.in_first_cell

    async def look_into(self, cell: int) -> tuple[Signed, ...]:
        return self.members.get(cell, ())


@pytest.fixture
def here(tmp_path: Path) -> Here:
    state = StateDir(tmp_path / "state")
    belonging = Belonging(SWARM, (), "", ROOT.public_key, b"")
    return Here(CellsKnown(belonging, state, MemoryDirectory(lambda *_: None)))


def keeper(here: Here, wanted: int | None = None) -> tuple[CellKeeper, list[NodeEvent]]:
    events: list[NodeEvent] = []
    return CellKeeper(cast("Presence", here), ROOT, wanted, events.append), events


async def a_while(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await work


async def test_small_swarm_stays_whole_and_nothing_is_said(here: Here) -> None:
    here.in_first_cell = CELL_FULL
    kept, events = keeper(here)
    await a_while(kept.count())
    assert (here.cells.count, here.cells.record, events) == (1, None, [])


async def test_full_swarm_is_split_once_until_all_have_moved(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_keeping, "RECOUNT_S", 0.001)
    here.in_first_cell = 3 * CELL_GOOD
    kept, events = keeper(here)
    await a_while(kept.count())  # nobody has moved yet, so the first cell looks like 9 * CELL_GOOD
    assert here.cells.count == 3
    assert len(events) == 1
    monkeypatch.setattr(cell_keeping, "SETTLED_S", -10.0)
    here.in_first_cell = CELL_GOOD  # now they have
    await a_while(kept.count())
    assert here.cells.count == 3
    here.in_first_cell = 10  # and now nearly all are gone
    await a_while(kept.count())
    assert here.cells.count == 1
    assert [event.data for event in events] == [{"cells": 3}, {"cells": 1}]


async def test_word_of_a_clock_that_was_ahead_holds_up_counting_for_no_longer(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_keeping, "RECOUNT_S", 0.001)
    monkeypatch.setattr(cell_keeping, "SETTLED_S", 0.05)
    await here.cells.take(write_cells(ROOT, CellCount(2**40, 5)))
    here.in_first_cell = CELL_GOOD * 2
    kept, events = keeper(here)
    await a_while(kept.count())
    assert here.cells.count > 5
    assert here.cells.serial > 2**40
    assert 1 <= len(events) <= 3  # each after a pause


async def test_number_that_was_asked_for_is_said_at_once_and_not_again(here: Here) -> None:
    kept, events = keeper(here, 4)
    await a_while(kept.count())
    assert here.cells.count == 4
    assert len(events) == 1
    again, none = keeper(here, 4)
    await a_while(again.count())
    assert none == []


def word(number: int, cell: int, *, serving: bool, bootstrap: bool = False) -> Signed:
    said = Announcement(
        incarnation=1,
        sequence=1,
        issued_unix_s=0.0,
        manifest_hash="",
        state=PeerState.SERVING if serving else PeerState.STANDBY,
        memory_bytes=0 if bootstrap else 10**9,
        speed=None if bootstrap else SPEED,
    )
    return said.signed(Identity(bytes([number] * 32)), cell_id(SWARM, cell))


async def test_each_cell_is_looked_into_in_turn(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_keeping, "SURVEY_S", 0.003)
    kept, _ = keeper(here, 3)
    await a_while(kept.count())
    here.members = {
        1: (word(5, 1, serving=True), word(6, 1, serving=False)),
        2: (word(7, 2, serving=False, bootstrap=True),),
    }
    await a_while(kept.survey())
    first, second = kept.elsewhere
    assert (first.cell, first.peers, first.serving, first.memory_bytes) == (1, 2, 1, 2 * 10**9)
    assert (second.cell, second.peers, second.serving, second.memory_bytes) == (2, 0, 0, 0)
    assert 0 <= first.age_s < 1
