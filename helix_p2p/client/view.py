"""What a client knows of its swarm: the plan, the members, and whom to ask next time.

Whoever the client came by is only the first to be asked. Every reply names members and their
addresses, so the swarm stays reachable when that first address is gone. Sources are asked one
after another with a head start, the one that answered last going first.

A swarm of several cells is served by each of them: the client draws one, and goes on to the next
when that one cannot take its requests.

Always: a plan or an announcement counts only under its owner's signature (and, unless the swarm is
open, with a certificate of its root); a plan replaces only a lower one, and one from the future is
not believed; one refresh runs at a time.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from helix_p2p.client.asking import first_answer
from helix_p2p.client.model_files import Check, NobodyHasIt
from helix_p2p.cluster.announcement import Announcement, open_announcement
from helix_p2p.errors import HelixError, ProtocolError
from helix_p2p.identity import Signed
from helix_p2p.membership.adoption import highest_epoch_at
from helix_p2p.membership.cell_count import open_cells
from helix_p2p.membership.cells import cell_id, swarm_of
from helix_p2p.membership.credentials import Role, verify_credentials
from helix_p2p.membership.messages import (
    CellsReply,
    FileReply,
    GetCells,
    GetFile,
    GetMembers,
    GetPlan,
    GetStatus,
    MembersReply,
    PlanReply,
)
from helix_p2p.net.requests import Requests
from helix_p2p.node.status import decode_status
from helix_p2p.planning.plan import SignedPlan
from helix_p2p.planning.signed import open_plan
from helix_p2p.session.entry_choice import EntryChoice, entry_candidates
from helix_p2p.types import PeerId

REFRESH_S = 15.0
"""Between refreshes when nothing fails; a plan lives for minutes."""
ASK_S = 8.0
WHY_S = 2.0
HEAD_START_S = 1.0
"""How long a source may think before the next one is asked as well."""
FILE_S = 60.0
"""A tokenizer of 35 MB over a home uplink of 1 MB/s takes 35 s."""
KNOWN_LIMIT = 256
CELLS_TRIED = 4
"""In one refresh, where none of them serves."""
CROWDED_S = 5.0
"""Many generations meet a full cell at once; the client leaves it once."""

T = TypeVar("T")

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


class SwarmView:
    """The client's picture of its swarm.

    Args:
        requests: Asks members.
        name: Shared with the handshake, which fills in an open swarm's id.
        sources: Where to begin, with addresses.
        choice: Kept up to date with the entry peers.
        random: Spreads clients over sources.
    """

    def __init__(
        self,
        requests: Requests,
        name: SwarmName,
        sources: dict[PeerId, tuple[str, ...]],
        choice: EntryChoice,
        random: Random,
    ) -> None:
        self._requests = requests
        self._name = name
        self._first = dict(sources)
        self._learnt: dict[PeerId, tuple[str, ...]] = {}
        self._answered: PeerId | None = None
        self._choice = choice
        self._random = random
        self._announced: dict[PeerId, tuple[Signed, Announcement]] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: set[Callable[[], None]] = set()
        self._cells: list[int] = [0]
        """Each once, in the order in which they are to be tried; the one in use first."""
        self._serial = -1
        self._crowded_s = -math.inf
        self.plan: SignedPlan | None = None
        self._why = ""

    @property
    def manifest_hash(self) -> str | None:
        """The model, once known."""
        return self._name.manifest_hash

    @property
    def cell(self) -> int:
        """The cell that is asked."""
        return self._cells[0]

    @property
    def members(self) -> dict[PeerId, Announcement]:
        """Who serves the model, by the last answer."""
        return {peer: said for peer, (_, said) in self._announced.items()}

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        """Where a member is to be reached."""
        return self._learnt.get(peer) or self._first.get(peer, ())

    @property
    def covered(self) -> bool:
        """Whether some peer can take requests."""
        return bool(self._choice.candidates)

    def describe(self) -> str:
        """Who is there, in words: `3 peers: 1 loading, 2 standby, with 0.8 GB for the model`."""
        members = self.members.values()
        if not members:
            return "it has no peers yet"
        states = Counter(str(said.state) for said in members)
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        memory_gb = sum(said.memory_bytes for said in members) / 1e9
        noun = "peer" if len(members) == 1 else "peers"
        said = f"{len(members)} {noun}: {counts}, with {memory_gb:.1f} GB for the model"
        return f"{said}; {self._why}" if self._why and not self.covered else said

    def start(self) -> None:
        """Refresh every now and then until `close`."""
        self._spawn(self._keep_fresh())

    async def close(self) -> None:
        """Stop refreshing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` after each refresh."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def refresh_soon(self, *, crowded: bool = False) -> None:
        """Something failed: refresh now, unless a refresh is under way.

        Args:
            crowded: There was no room; another cell may have some.
        """
        if crowded and time.monotonic() - self._crowded_s > CROWDED_S:
            self._crowded_s = time.monotonic()
            self._go_on()
        if self._refreshing is None:
            self._spawn(self._refresh_quietly())

    async def refresh(self) -> None:
        """Ask for plan and members; many callers share one refresh.

        Raises:
            PeerUnreachable: Nobody answered.
            HelixError: The one who answered refused us.
        """
        if self._refreshing is None:
            task = self._refreshing = asyncio.create_task(self._refresh())
            self._tasks.add(task)
            task.add_done_callback(self._refreshed)
        await asyncio.shield(self._refreshing)

    async def fetch(self, name: str, check: Check) -> bytes:
        """One of the model's small files, from whoever has it.

        Raises:
            NobodyHasIt: Nobody who answers has it.
            NetworkError: Nobody answers.
        """
        missing = NobodyHasIt(f"nobody in the swarm hands out {name}")

        async def ask(peer: PeerId) -> bytes:
            reply, data = await self._requests.ask(
                peer, GetFile(name), timeout_s=FILE_S, addresses=self.addresses_of(peer)
            )
            if not isinstance(reply, FileReply) or reply.name != name:
                raise ProtocolError(f"{peer} answered with {type(reply).__name__}")
            if not reply.found:
                raise missing
            body = bytes(data)
            check(body)
            return body

        return await self._ask_around(ask, head_start_s=5.0)

    # ── refreshing ─────────────────────────────────────────────────────────────────────────────

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # told to those who wait; nobody may be left

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S * self._random.uniform(0.8, 1.2))
            await self._refresh_quietly()

    async def _refresh_quietly(self) -> None:
        try:
            await self.refresh()
        except HelixError as error:
            log.info("the view of the swarm is not refreshed: %s", error)

    async def _refresh(self) -> None:
        tried = 0
        while True:
            await self._look()
            if self.plan is None and self.members and self.cell:
                self._answered = None  # who named its members is in another cell
                await self._look()
            tried += 1
            if self.covered or tried >= min(CELLS_TRIED, len(self._cells)):
                break
            self._go_on()
        self._why = "" if self.covered else await self._ask_why()
        for listener in tuple(self._listeners):
            listener()

    async def _look(self) -> None:
        while True:
            cell, plan, members = await self._ask_around(self._ask_view)
            if cell == self.cell:  # it was not left meanwhile
                break
        self._take(plan, members)

    def _go_on(self) -> None:
        """Ask the next cell from now on; what runs in this one goes on there."""
        if len(self._cells) > 1:
            self._leave_cell([*self._cells[1:], self._cells[0]])

    def _leave_cell(self, cells: list[int]) -> None:
        self._cells = cells
        self._announced, self.plan, self._answered = {}, None, None

    def _take_cells(self, record: Signed) -> None:
        """How many cells there are, if that can be believed."""
        if self._name.root_public_key is None:
            return
        try:
            said = open_cells(record, self._swarm(), self._name.root_public_key)
        except ProtocolError as error:
            log.warning("a number of cells is not believed: %s", error)
            return
        if said.serial > self._serial:
            self._serial = said.serial
            self._leave_cell(self._random.sample(range(said.cells), said.cells))

    async def _ask_why(self) -> str:
        """What a peer says of a swarm that takes no requests; empty when none says anything."""
        for peer, said in self.members.items():
            if said.speed is None:
                continue
            try:
                _, data = await self._requests.ask(
                    peer, GetStatus(), timeout_s=WHY_S, addresses=self.addresses_of(peer)
                )
                return decode_status(data).detail
            except HelixError as error:
                log.info("%s does not say how it is: %s", peer, error)
        return ""

    async def _ask_view(
        self, peer: PeerId
    ) -> tuple[int, SignedPlan | None, dict[PeerId, Announcement]]:
        addresses = self.addresses_of(peer)
        reply, _ = await self._requests.ask(peer, GetCells(), timeout_s=ASK_S, addresses=addresses)
        if not isinstance(reply, CellsReply):
            raise ProtocolError(f"{peer} answered GetCells with {type(reply).__name__}")
        if reply.record is not None:
            self._take_cells(reply.record)
        cell = self.cell
        reply, _ = await self._requests.ask(peer, GetPlan(), timeout_s=ASK_S, addresses=addresses)
        if not isinstance(reply, PlanReply):
            raise ProtocolError(f"{peer} answered GetPlan with {type(reply).__name__}")
        plan = self._read_plan(reply.plan) if reply.plan is not None else None
        reply, _ = await self._requests.ask(
            peer, GetMembers(cell=cell), timeout_s=ASK_S, addresses=addresses
        )
        if not isinstance(reply, MembersReply):
            raise ProtocolError(f"{peer} answered GetMembers with {type(reply).__name__}")
        return cell, plan, self._read_members(reply.announcements)

    def _take(self, plan: SignedPlan | None, members: dict[PeerId, Announcement]) -> None:
        if plan is not None and (self.plan is None or plan.order > self.plan.order):
            self.plan = plan
        if self._name.manifest_hash is None:
            self._name.manifest_hash = _model_of(self.plan, members)
        model = self._name.manifest_hash
        members = {p: said for p, said in members.items() if said.manifest_hash == model}
        self._announced = {p: v for p, v in self._announced.items() if p in members}
        for peer, said in members.items():
            if said.addresses:
                self._learnt.pop(peer, None)  # to the end: the oldest go first
                self._learnt[peer] = said.addresses
        for peer in list(self._learnt)[: max(0, len(self._learnt) - KNOWN_LIMIT)]:
            del self._learnt[peer]
        placement = self.plan.plan.placement if self.plan else None
        self._choice.update(entry_candidates(placement, members.items()))

    def _read_plan(self, record: Signed) -> SignedPlan | None:
        """The plan if it can be believed; a bad one does not spoil the rest of the answer."""
        if self.plan is not None and record == self.plan.record:
            return self.plan
        if record.swarm != self._cell_id() and swarm_of(record.swarm) == self._swarm():
            return None  # whom we came in by lives in another cell
        try:
            plan = open_plan(record, self._cell_id())
        except ProtocolError as error:
            log.warning("a plan is not believed: %s", error)
            return None
        newest = highest_epoch_at(time.time())
        model = self._name.manifest_hash
        if plan.plan.epoch > newest or (model is not None and plan.plan.manifest_hash != model):
            log.warning("a plan of epoch %s is not believed", plan.plan.epoch)
            return None
        return plan

    def _read_members(self, records: Iterable[Signed]) -> dict[PeerId, Announcement]:
        members: dict[PeerId, Announcement] = {}
        for record in records:
            try:
                peer = record.signer
                known = self._announced.get(peer)
                if known is None or known[0] != record:
                    said = self._verified(peer, record)
                    if known is None or said.order > known[1].order:
                        known = self._announced[peer] = record, said
            except ProtocolError as error:
                log.debug("an announcement is not believed: %s", error)
                continue
            members[peer] = known[1]
        return members

    def _verified(self, peer: PeerId, record: Signed) -> Announcement:
        said = open_announcement(record, self._cell_id())
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

    def _cell_id(self) -> str:
        return cell_id(self._swarm(), self.cell)

    def _swarm(self) -> str:
        assert self._name.swarm is not None, "the handshake comes before any answer"
        return self._name.swarm

    # ── asking around ──────────────────────────────────────────────────────────────────────────

    def _sources(self) -> list[PeerId]:
        first, learnt = list(self._first), [p for p in self._learnt if p not in self._first]
        self._random.shuffle(first)
        self._random.shuffle(learnt)
        if self.cell:  # the ways in live in the first cell
            here = [peer for peer in self._announced if peer in self._learnt]
            self._random.shuffle(here)
            first = [*here, *first]
        order = [*first, *learnt] if self._answered is None else [self._answered, *first, *learnt]
        return list(dict.fromkeys(order))

    async def _ask_around(
        self, ask: Callable[[PeerId], Awaitable[T]], head_start_s: float | None = None
    ) -> T:
        try:
            peer, answer = await first_answer(
                ask, self._sources(), head_start_s=head_start_s or HEAD_START_S
            )
        except HelixError:
            self._answered = None
            raise
        self._answered = peer
        return answer

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _model_of(plan: SignedPlan | None, members: dict[PeerId, Announcement]) -> str | None:
    """The model that the plan serves, else the one that most members announce."""
    if plan is not None:
        return plan.plan.manifest_hash
    counts = Counter(said.manifest_hash for said in members.values() if said.manifest_hash)
    return max(sorted(counts), key=lambda model: counts[model], default=None)
