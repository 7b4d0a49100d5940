"""What is believed of what one member says: nothing of another cell, nothing that is not signed."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from helix_p2p.client.looking import Looking, SwarmName
from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.errors import ProtocolError, SignatureError
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cell_count import CellCount, write_cells
from helix_p2p.membership.cells import cell_id
from helix_p2p.membership.credentials import open_swarm_id_of, swarm_id_of
from helix_p2p.membership.messages import (
    GetMembers,
    GetPlan,
    GetRootWords,
    MembersReply,
    PlanReply,
    RootWords,
)
from helix_p2p.net.requests import Requests
from helix_p2p.planning.plan import MinCut, Placement, Plan
from helix_p2p.planning.signed import sign_plan
from helix_p2p.types import Epoch, PeerId
from helix_p2p.wire.registry import Message

SWARM = open_swarm_id_of("m")
ROOT, PLANNER = Identity(bytes([1] * 32)), Identity(bytes([2] * 32))
ASKED = PeerId("who is asked")


@dataclass
class Member:
    """Answers with what it is given."""

    plan: Signed | None = None
    members: tuple[Signed, ...] = ()
    words: Message = field(default_factory=RootWords)

    async def ask(self, _peer: PeerId, message: Message, **_: Any) -> tuple[Message, bytearray]:
        match message:
            case GetPlan():
                return PlanReply(self.plan), bytearray()
            case GetMembers():
                return MembersReply(self.members), bytearray()
            case GetRootWords():
                return self.words, bytearray()
        raise AssertionError(message)


def looking(member: Member, name: SwarmName | None = None) -> Looking:
    return Looking(cast("Requests", member), name or SwarmName(SWARM), lambda _peer: ())


def word(number: int, cell: int, sequence: int = 1) -> Signed:
    said = Announcement(1, sequence, 0.0, "", PeerState.STANDBY, 1)
    return said.signed(Identity(bytes([number] * 32)), cell_id(SWARM, cell))


def plan(cell: int, epoch: int = 64) -> Signed:
    placement = Placement((), (), 0, 0, MinCut(), "none", 0.0)
    made = Plan(Epoch(epoch), PLANNER.peer_id, b"", "", 0.0, (), placement)
    return sign_plan(made, PLANNER, cell_id(SWARM, cell))


async def test_member_shows_its_own_cell() -> None:
    member = Member(plan(2), (word(5, 2), word(6, 2)))
    seen = await looking(member).at_cell(ASKED, 2)
    assert seen.plan is not None
    assert (seen.plan.record, len(seen.members), seen.from_outside) == (plan(2), 2, False)


async def test_member_of_another_cell_shows_members_alone() -> None:
    seen = await looking(Member(plan(0), (word(5, 2),))).at_cell(ASKED, 2)
    assert (seen.plan, len(seen.members), seen.from_outside) == (None, 1, True)


async def test_records_of_one_cell_are_no_members_of_another_though_they_were_believed() -> None:
    member = Member(plan(0), (word(5, 0), word(6, 0)))
    view = looking(member)
    seen = await view.at_cell(ASKED, 0)
    assert len(seen.members) == 2
    view.keep(seen)
    assert (await view.at_cell(ASKED, 1)).members == {}
    member.members = (word(5, 0), word(6, 1, sequence=2))
    assert set((await view.at_cell(ASKED, 1)).members) == {Identity(bytes([6] * 32)).peer_id}


async def test_plan_that_is_known_is_no_other_cells() -> None:
    member = Member(plan(0), (word(5, 1),))
    view = looking(member)
    view.keep(await view.at_cell(ASKED, 0))
    seen = await view.at_cell(ASKED, 1)
    assert (seen.plan, seen.from_outside) == (None, True)


async def test_older_word_of_a_member_is_not_taken_for_its_last() -> None:
    member = Member(None, (word(5, 0, sequence=3),))
    view = looking(member)
    view.keep(await view.at_cell(ASKED, 0))
    member.members = (word(5, 0, sequence=2),)
    seen = await view.at_cell(ASKED, 0)
    assert [said.sequence for said in seen.members.values()] == [3]


async def test_number_of_cells_is_the_roots() -> None:
    name = SwarmName(swarm_id_of(ROOT.public_key), None, ROOT.public_key)
    record = write_cells(ROOT, CellCount(7, 3))
    view = looking(Member(words=RootWords(record)), name)
    assert await view.at_number_of_cells(ASKED, -1) == (record, CellCount(7, 3))
    assert await looking(Member(), name).at_number_of_cells(ASKED, 7) is None
    forged = write_cells(PLANNER, CellCount(7, 3))
    with pytest.raises(SignatureError):
        await looking(Member(words=RootWords(forged)), name).at_number_of_cells(ASKED, -1)
    with pytest.raises(ProtocolError, match="PlanReply"):
        await looking(Member(words=PlanReply(None)), name).at_number_of_cells(ASKED, -1)
