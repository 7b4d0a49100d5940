"""What one member says of a cell, as far as it can be believed.

Always: a plan or an announcement counts only under its owner's signature, for the cell that was
asked about, and, unless the swarm is open, with a certificate of its root; a plan from the future
is not believed; what is not believed does not spoil the rest of an answer.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from helix_p2p.cluster.announcement import Announcement, open_announcement
from helix_p2p.errors import ProtocolError
from helix_p2p.identity import Signed
from helix_p2p.membership.adoption import highest_epoch_at
from helix_p2p.membership.cell_count import CellCount, open_cells
from helix_p2p.membership.cells import cell_id, swarm_of
from helix_p2p.membership.credentials import Role, verify_credentials
from helix_p2p.membership.messages import (
    NOT_ASKED,
    GetMembers,
    GetPlan,
    GetRootWords,
    MembersReply,
    PlanReply,
    RootWords,
)
from helix_p2p.net.requests import Requests
from helix_p2p.planning.plan import SignedPlan
from helix_p2p.planning.signed import open_plan
from helix_p2p.types import PeerId

ASK_S, ROOT_ASK_S = 8.0, 3.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SwarmName:
    """Which swarm and model; what is None is learnt from the first member that answers.

    Attributes:
        swarm: Swarm id.
        manifest_hash: The model.
        root_public_key: None in an open swarm.
    """

    swarm: str | None = None
    manifest_hash: str | None = None
    root_public_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A cell as somebody shows it.

    Attributes:
        cell: Which.
        plan: The one that is followed there; None when none is known or believed.
        members: Their latest words, of whatever model.
        from_outside: Whether who shows it lives in another cell, and knows members alone.
    """

    cell: int
    plan: SignedPlan | None
    members: dict[PeerId, Announcement]
    from_outside: bool


class Looking:
    """See the module's description.

    Args:
        requests: Asks members.
        name: Our swarm; its id is known once somebody has answered.
        addresses_of: Where a member is to be reached.
    """

    def __init__(
        self,
        requests: Requests,
        name: SwarmName,
        addresses_of: Callable[[PeerId], tuple[str, ...]],
    ) -> None:
        self._requests = requests
        self._name = name
        self._addresses_of = addresses_of
        self._plan: SignedPlan | None = None
        self._announced: dict[PeerId, tuple[Signed, Announcement]] = {}

    async def at_cell(self, peer: PeerId, cell: int) -> Seen:
        """Ask a member, of whatever cell, about a cell.

        Raises:
            HelixError: It does not answer, or with nonsense, or refuses.
        """
        at = self._addresses_of(peer)
        reply, _ = await self._requests.ask(peer, GetPlan(), timeout_s=ASK_S, addresses=at)
        if not isinstance(reply, PlanReply):
            raise ProtocolError(f"{peer} answered GetPlan with {type(reply).__name__}")
        record, ours = reply.plan, cell_id(self._swarm(), cell)
        # Without a plan it cannot be told; of the first cell the ways in are members.
        outside = record.swarm != ours if record is not None else cell > 0
        plan = self._read_plan(record, ours) if record is not None else None
        reply, _ = await self._requests.ask(
            peer, GetMembers(cell=cell), timeout_s=ASK_S, addresses=at
        )
        if not isinstance(reply, MembersReply):
            raise ProtocolError(f"{peer} answered GetMembers with {type(reply).__name__}")
        return Seen(cell, plan, self._read_members(reply.announcements, ours), outside)

    async def at_number_of_cells(
        self, peer: PeerId, serial: int
    ) -> tuple[Signed, CellCount] | None:
        """Ask a member for the root's word after the one with this serial; None without any.

        Raises:
            HelixError: As `at_cell`.
        """
        root = self._name.root_public_key
        reply, _ = await self._requests.ask(
            peer,
            GetRootWords(serial, NOT_ASKED),
            timeout_s=ROOT_ASK_S,
            addresses=self._addresses_of(peer),
        )
        if not isinstance(reply, RootWords):
            raise ProtocolError(f"{peer} answered GetRootWords with {type(reply).__name__}")
        if reply.cells is None or root is None:
            return None
        return reply.cells, open_cells(reply.cells, self._swarm(), root)

    def keep(self, seen: Seen) -> None:
        """This is the view from now on: what else was read need not be remembered."""
        self._plan = seen.plan or self._plan
        self._announced = {p: v for p, v in self._announced.items() if p in seen.members}

    # ── reading ────────────────────────────────────────────────────────────────────────────────

    def _read_plan(self, record: Signed, cell: str) -> SignedPlan | None:
        if record.swarm != cell and swarm_of(record.swarm) == self._swarm():
            return None  # who answers lives in another cell
        if self._plan is not None and record == self._plan.record:
            return self._plan
        try:
            plan = open_plan(record, cell)
        except ProtocolError as error:
            log.warning("a plan is not believed: %s", error)
            return None
        newest = highest_epoch_at(time.time())
        model = self._name.manifest_hash
        if plan.plan.epoch > newest or (model is not None and plan.plan.manifest_hash != model):
            log.warning("a plan of epoch %s is not believed", plan.plan.epoch)
            return None
        return plan

    def _read_members(self, records: Iterable[Signed], cell: str) -> dict[PeerId, Announcement]:
        members: dict[PeerId, Announcement] = {}
        for record in records:
            try:
                peer = record.signer
                known = self._announced.get(peer)
                if known is None or known[0] != record or record.swarm != cell:
                    said = self._verified(peer, record, cell)
                    if known is None or said.order > known[1].order:
                        known = self._announced[peer] = record, said
            except ProtocolError as error:
                log.debug("an announcement is not believed: %s", error)
                continue
            members[peer] = known[1]
        return members

    def _verified(self, peer: PeerId, record: Signed, cell: str) -> Announcement:
        said = open_announcement(record, cell)
        roles = verify_credentials(
            said.credentials,
            peer=peer,
            swarm=self._swarm(),
            root_public_key=self._name.root_public_key,
            now_unix_s=time.time(),
        )
        if Role.PEER not in roles:
            raise ProtocolError(f"{peer} may not serve")
        return said

    def _swarm(self) -> str:
        assert self._name.swarm is not None, "the handshake comes before any answer"
        return self._name.swarm
