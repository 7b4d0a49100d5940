"""What a bootstrap node sees in the cells of its swarm, and what it advises."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.errors import DeadlineExceeded
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cells import CELL_FULL, CELL_GOOD, cell_id
from helix_p2p.membership.credentials import swarm_id_of
from helix_p2p.node import cell_keeping
from helix_p2p.node.cell_keeping import CellKeeper
from helix_p2p.node.events import NodeEvent
from helix_p2p.node.presence import Presence

SWARM = swarm_id_of(Identity(bytes([1] * 32)).public_key)
SPEED = SpeedProfile(((64, 0.01),), ((1, 0.001), (8, 0.002)))


def word(*, serving: bool = False, bootstrap: bool = False) -> Announcement:
    return Announcement(
        incarnation=1,
        sequence=1,
        issued_unix_s=0.0,
        manifest_hash="",
        state=PeerState.SERVING if serving else PeerState.STANDBY,
        memory_bytes=0 if bootstrap else 10**9,
        speed=None if bootstrap else SPEED,
    )


def signed(said: Announcement, number: int, cell: int) -> Signed:
    return said.signed(Identity(bytes([number] * 32)), cell_id(SWARM, cell))


@dataclass
class Here:
    """As much of a presence as is asked."""

    count: int = 1
    own: int = 0
    others: Mapping[int, tuple[Signed, ...]] = field(default_factory=dict)

    @property
    def cells(self) -> Any:
        return SimpleNamespace(count=self.count)

    @property
    def member(self) -> Any:
        return SimpleNamespace(announcements=lambda: {number: word() for number in range(self.own)})

    @property
    def elsewhere(self) -> Any:
        return self

    async def members(self, cell: int) -> tuple[Signed, ...]:
        if cell not in self.others:
            raise DeadlineExceeded("the DHT does not answer")
        return self.others[cell]


class Enough(Exception):
    pass


@pytest.fixture(autouse=True)
def rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper pauses six times, and no longer than it must."""
    pauses = count()

    async def sleep(_seconds: float) -> None:
        if next(pauses) == 6:
            raise Enough

    monkeypatch.setattr(cell_keeping.asyncio, "sleep", sleep)


async def kept_for_a_while(here: Here) -> tuple[CellKeeper, list[NodeEvent]]:
    events: list[NodeEvent] = []
    keeper = CellKeeper(cast("Presence", here), events.append)
    with pytest.raises(Enough):
        await keeper.run()
    return keeper, events


async def test_each_cell_is_looked_into_in_turn() -> None:
    here = Here(
        3,
        others={
            1: (signed(word(serving=True), 5, 1), signed(word(), 6, 1)),
            2: (signed(word(bootstrap=True), 7, 2),),
        },
    )
    keeper, _ = await kept_for_a_while(here)
    first, second = keeper.elsewhere
    assert (first.cell, first.peers, first.serving, first.memory_bytes) == (1, 2, 1, 2 * 10**9)
    assert (second.cell, second.peers, second.serving, second.memory_bytes) == (2, 0, 0, 0)
    assert first.age_s >= 0


async def test_swarm_that_fits_is_left_alone() -> None:
    _, events = await kept_for_a_while(Here(1, CELL_FULL))
    assert events == []


async def test_full_cell_is_advised_on_once() -> None:
    _, events = await kept_for_a_while(Here(1, 3 * CELL_GOOD))
    assert [event.name for event in events] == ["advice"]
    assert "helix-bootstrap cells 3" in events[0].text
    assert "if 384 GB in each" in events[0].text
    assert events[0].data["cells"] == 3


async def test_what_could_not_be_seen_is_no_ground_for_advice() -> None:
    keeper, events = await kept_for_a_while(Here(2, 1))  # the other cell may be full of peers
    assert keeper.elsewhere == ()
    assert events == []
