"""What a client knows of its swarm: the plan, the members, and whom to ask next time.

Whoever the client came by is only the first to be asked. Every reply names members and their
addresses, so the swarm stays reachable when that first address is gone. Sources are asked one
after another with a head start, the one that answered last going first.

A swarm of several cells is served by each of them; which one is asked: `cells.py`. Whoever answers
for a cell may live in another, and know its members from the DHT alone; then one of these is asked.

Always: what is believed: `looking.py`; a plan replaces only a lower one of its cell; one refresh
runs at a time.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from random import Random
from typing import TypeVar

from helix_p2p.client.asking import first_answer
from helix_p2p.client.cells import CellChoice
from helix_p2p.client.looking import Looking, Seen, SwarmName
from helix_p2p.client.model_files import Check, NobodyHasIt
from helix_p2p.cluster.announcement import Announcement
from helix_p2p.errors import HelixError, PeerUnreachable, ProtocolError
from helix_p2p.membership.messages import (
    FileReply,
    GetFile,
    GetStatus,
)
from helix_p2p.net.requests import Requests
from helix_p2p.node.status import decode_status
from helix_p2p.planning.plan import SignedPlan
from helix_p2p.session.entry_choice import EntryCandidate, EntryChoice, entry_candidates
from helix_p2p.types import PeerId

REFRESH_S = 15.0
"""Between refreshes when nothing fails; a plan lives for minutes."""
WHY_S = 2.0
HEAD_START_S = 1.0
"""How long a source may think before the next one is asked as well."""
FILE_S = 60.0
"""A tokenizer of 35 MB over a home uplink of 1 MB/s takes 35 s."""
KNOWN_LIMIT = 256
CELLS_ASKED_S = 60.0
INSIDE_TRIED, SOURCES_TRIED = 4, 16
"""Who is asked about one of several cells; the next cell is a better try than many more of them."""

T = TypeVar("T")

log = logging.getLogger(__name__)


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
        self._looking = Looking(requests, name, self.addresses_of)
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: set[Callable[[], None]] = set()
        self._cells = CellChoice(random)
        self._cells_asked_s = -math.inf
        self.cell = 0
        """The cell that is asked."""
        self.members: dict[PeerId, Announcement] = {}
        """Who serves the model, by the last answer."""
        self.plan: SignedPlan | None = None
        self._why = ""

    @property
    def manifest_hash(self) -> str | None:
        """The model, once known."""
        return self._name.manifest_hash

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
        if crowded:
            self._cells.crowded(time.monotonic())
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
        await self._ask_cells()
        error: HelixError | None = None
        seen: Seen | None = None
        tour = self._cells.tour(time.monotonic())
        sources = None if len(tour) == 1 else self._sources()[:SOURCES_TRIED]
        for cell in tour:
            try:
                seen = await self._look_into(cell, sources)
            except HelixError as caught:
                error = error or caught
                continue
            if self._entries(seen):
                self._cells.serves(cell)
                break
        else:
            self._cells.none_serves()
        if seen is None:
            raise error or PeerUnreachable("nobody in the swarm answers")
        self._take(seen)
        self._why = "" if self.covered else await self._ask_why()
        for listener in tuple(self._listeners):
            listener()

    async def _ask_cells(self) -> None:
        """How many cells there are, if it is time to ask; who does not say leaves it as it was."""
        now_s = time.monotonic()
        if self._name.root_public_key is None or now_s - self._cells_asked_s < CELLS_ASKED_S:
            return
        self._cells_asked_s = now_s
        serial = self._cells.serial
        try:
            word = await self._ask_around(
                lambda peer: self._looking.at_number_of_cells(peer, serial)
            )
        except HelixError as error:
            log.info("nobody says how many cells there are: %s", error)
            return
        if word is not None:
            self._cells.learn(*word, now_s)

    async def _look_into(self, cell: int, sources: Sequence[PeerId] | None) -> Seen:
        async def look(peer: PeerId) -> Seen:
            seen = await self._looking.at_cell(peer, cell)
            self._learn_addresses(self._of_our_model(seen))
            return seen

        seen = await self._ask_around(look, sources)
        if seen.from_outside and seen.members:
            self._answered = None
            inside = [peer for peer in seen.members if peer in self._learnt]
            self._random.shuffle(inside)
            with contextlib.suppress(HelixError):  # what was seen from outside is something
                seen = await self._ask_around(look, inside[:INSIDE_TRIED])
        return seen

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

    def _learn_addresses(self, members: dict[PeerId, Announcement]) -> None:
        for peer, said in members.items():
            if said.addresses:
                self._learnt.pop(peer, None)  # to the end: the oldest go first
                self._learnt[peer] = said.addresses
        for peer in list(self._learnt)[: max(0, len(self._learnt) - KNOWN_LIMIT)]:
            del self._learnt[peer]

    def _take(self, seen: Seen) -> None:
        plan = seen.plan
        if seen.cell != self.cell or (
            plan is not None and (self.plan is None or plan.order > self.plan.order)
        ):
            self.plan = plan
        self.cell = seen.cell
        if self._name.manifest_hash is None:
            self._name.manifest_hash = _model_of(self.plan, seen.members)
        self.members = self._of_our_model(seen)
        self._looking.keep(seen)
        self._choice.update(self._entries(seen))

    def _of_our_model(self, seen: Seen) -> dict[PeerId, Announcement]:
        model = self._name.manifest_hash or _model_of(seen.plan, seen.members)
        return {p: said for p, said in seen.members.items() if said.manifest_hash == model}

    def _entries(self, seen: Seen) -> tuple[EntryCandidate, ...]:
        plan = seen.plan
        if seen.cell == self.cell and self.plan is not None:
            plan = self.plan if plan is None else max(plan, self.plan, key=lambda it: it.order)
        placement = plan.plan.placement if plan else None
        return entry_candidates(placement, self._of_our_model(seen).items())

    # ── asking around ──────────────────────────────────────────────────────────────────────────

    def _sources(self) -> list[PeerId]:
        first, learnt = list(self._first), [p for p in self._learnt if p not in self._first]
        self._random.shuffle(first)
        self._random.shuffle(learnt)
        order = [*first, *learnt] if self._answered is None else [self._answered, *first, *learnt]
        return list(dict.fromkeys(order))

    async def _ask_around(
        self,
        ask: Callable[[PeerId], Awaitable[T]],
        sources: Sequence[PeerId] | None = None,
        *,
        head_start_s: float = HEAD_START_S,
    ) -> T:
        try:
            peer, answer = await first_answer(
                ask, self._sources() if sources is None else sources, head_start_s=head_start_s
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
