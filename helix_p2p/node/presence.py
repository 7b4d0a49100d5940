"""A member's presence in its cell: links, membership, and answers to questions.

What a peer and a bootstrap node have in common. How it comes about and ends: `entering.py`.

Always: other members are let in only with the peer's role in their certificate, and of this cell;
guests of the swarm may ask questions.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from helix_p2p.errors import (
    HandshakeRefused,
    HelixError,
    InvalidRequest,
    PeerLost,
)
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cells import cell_id, cell_of
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.effects import Effect, MemberMessage
from helix_p2p.membership.member import Member
from helix_p2p.membership.messages import (
    GetMembers,
    GetRootWords,
    Hello,
    MembersReply,
    RootWords,
)
from helix_p2p.membership.own import MemberConfig
from helix_p2p.membership.records import member_keys
from helix_p2p.net.channel import Membership
from helix_p2p.net.dht import Libp2pDirectory
from helix_p2p.net.libp2p import Libp2pTransport
from helix_p2p.net.link import LinkOptions
from helix_p2p.net.links import LinkPool
from helix_p2p.net.protocols import MEMBER_PROTOCOL
from helix_p2p.net.requests import Requests
from helix_p2p.node.cells import CellsKnown
from helix_p2p.node.config import NetworkConfig
from helix_p2p.node.control import ControlService
from helix_p2p.node.elsewhere import Elsewhere
from helix_p2p.node.joining import Belonging
from helix_p2p.node.membership import MembershipDriver, now, read_members
from helix_p2p.node.root_words import ASK_S, keep_asking
from helix_p2p.node.state import StateDir
from helix_p2p.node.status import NodeStatus, encode_status
from helix_p2p.node.ways_in import addresses_by_peer, first_asked, ways_in
from helix_p2p.types import PeerId
from helix_p2p.wire.framing import MESSAGE_LIMIT_BYTES, Buffer
from helix_p2p.wire.registry import Message

log = logging.getLogger(__name__)

MEMBER_LINKS = LinkOptions(heartbeat_s=2.0, silence_s=8.0, payload_limit_bytes=0)
MEMBER_LINK_IDLE_S = 30.0
REMEMBER_S = 15.0
WAYS_IN_TRIED = 4
MEMBERS_LIMIT_BYTES = MESSAGE_LIMIT_BYTES // 2
SIGNED_OVERHEAD_BYTES = 256
"""Key, signature, names and their encoding around a body."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where and as whom a member enters.

    Attributes:
        identity: Its key.
        belonging: Its swarm.
        network: How it is reached.
        state: Its folder.
        member: Configuration of the membership machine in the cell with this id.
        files: What it hands out of the model.
        roams: Whether it lives in the cell that its id gives it; else in the first.
    """

    identity: Identity
    belonging: Belonging
    network: NetworkConfig
    state: StateDir
    member: Callable[[str], MemberConfig]
    files: Mapping[str, bytes]
    roams: bool = True

    def cell_among(self, cells: int) -> int:
        """In which cell it belongs."""
        if not self.roams:
            return 0
        return cell_of(self.identity.peer_id, self.belonging.swarm, cells)


class Presence:
    """A running member; made by `entering.presence`."""

    def __init__(
        self,
        place: Place,
        transport: Libp2pTransport,
        directory: Libp2pDirectory,
        cells: CellsKnown,
        observe: Callable[[Effect], None],
        status: Callable[[], NodeStatus],
    ) -> None:
        self._place = place
        self.cells = cells
        self.cell = place.cell_among(cells.count)
        swarm = cell_id(place.belonging.swarm, self.cell)
        self.elsewhere = Elsewhere(
            lambda cell: read_members(directory, member_keys(cell_id(place.belonging.swarm, cell)))
        )
        self._started_s = time.monotonic()
        self.transport = transport
        self.member = Member(place.member(swarm), random.Random(), now())
        self.anyone = self._membership(place.belonging.swarm)
        self.members_only = self._membership(swarm).requiring(Role.PEER)
        self.requests = Requests(transport, self.anyone)
        self.links = LinkPool(
            transport,
            self.members_only,
            on_message=self._on_message,
            on_lost=self._on_lost,
            addresses=self.addresses_of,
            options=MEMBER_LINKS,
            protocol=MEMBER_PROTOCOL,
        )
        self.driver = MembershipDriver(self.member, self, directory, place.state, swarm, observe)
        self._known = addresses_by_peer(ways_in(place.belonging, place.network, place.state))
        self._named = list(addresses_by_peer(place.belonging.bootstrap))
        self._last_sent_s: dict[PeerId, float] = {}
        self.control = ControlService(
            plan=self._plan,
            members=self._members_of,
            root_words=self._root_words,
            files=place.files,
            status=lambda: encode_status(status()),
        )

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_s

    def nodes(self) -> int:
        """About how many nodes the swarm has: cells are equal by chance."""
        return self.cells.count * (len(self.member.view) + 1)

    @property
    def should_move(self) -> bool:
        """Whether it belongs into another cell by now."""
        return self._place.cell_among(self.cells.count) != self.cell

    def addresses_of(self, peer: PeerId) -> Sequence[str]:
        """Where a peer may be: its own word first, then what we came in by."""
        return (*self.member.view.addresses_of(peer), *self._known.get(peer, ()))

    def send(self, peer: PeerId, message: MemberMessage, *, urgent: bool = True) -> None:
        """Queue a membership message; a failure comes back as `on_unreachable`."""
        self._last_sent_s[peer] = time.monotonic()
        self.links.send(peer, message, urgent=urgent)

    async def ask(
        self, peer: PeerId, message: Message, payload: Buffer = b"", *, timeout_s: float = 10.0
    ) -> tuple[Message, bytearray]:
        """Put a question to a peer where it says it is; see `Requests.ask`."""
        at = tuple(self.addresses_of(peer))
        return await self.requests.ask(peer, message, payload, timeout_s=timeout_s, addresses=at)

    async def introduce(self) -> None:
        """Ask those we may have come in by who else is here: one of them may lie, or say nothing.

        The DHT alone would take seconds longer.
        """

        async def ask(peer: PeerId, addresses: tuple[str, ...]) -> None:
            with contextlib.suppress(HelixError):
                reply, _ = await self.requests.ask(
                    peer, GetMembers(cell=self.cell), timeout_s=5.0, addresses=addresses
                )
                if isinstance(reply, MembersReply):
                    self.driver.on_records(reply.announcements)

        place = self._place
        asked = first_asked(place.belonging, place.network, place.state)
        await asyncio.gather(
            *(ask(*way_in) for way_in in asked.items() if way_in[0] != self.member.peer_id)
        )

    async def keep_house(self) -> None:
        """Close links that nobody uses, remember members for the next start; until cancelled."""
        while True:
            await asyncio.sleep(REMEMBER_S)
            idle_s = time.monotonic() - MEMBER_LINK_IDLE_S
            for peer in [p for p, at_s in self._last_sent_s.items() if at_s < idle_s]:
                del self._last_sent_s[peer]
                self.links.drop(peer)
            await self.requests.tidy()
            addresses = tuple(a for e in self.member.view for a in e.announcement.addresses)
            if addresses:
                with contextlib.suppress(HelixError):
                    await asyncio.to_thread(self._place.state.remember_peers, addresses)

    def _on_message(self, peer: PeerId, message: Message, _payload: bytearray) -> None:
        self.driver.on_message(peer, message)  # type: ignore[arg-type]  # it passes over what it does not know

    def _on_lost(self, peer: PeerId, error: HelixError) -> None:
        self._last_sent_s.pop(peer, None)
        if isinstance(error, HandshakeRefused):
            log.info("%s refused us: %s", peer, error)
        if isinstance(error, PeerLost):
            self.driver.on_peer_lost(peer)
        else:
            self.driver.on_unreachable(peer)

    def _membership(self, swarm: str) -> Membership:
        """Whom we talk to: who is of the swarm (or cell), was not revoked and not convicted."""
        ours, trust = replace(self._place.belonging.admission(), swarm=swarm), self.member.trust
        usual = Membership.of(lambda: replace(ours, revoked=trust.revoked))

        def check(peer: PeerId, hello: Hello) -> frozenset[Role]:
            if peer in trust.proofs:  # also in an open swarm, where certificates say nothing
                raise HandshakeRefused("its key is banned: it signed two plans of one epoch")
            return usual.check(peer, hello)

        return Membership(usual.hello, check, usual.timeout_s)

    def _plan(self, wanted: bytes) -> Signed | None:
        plan = self.member.adoption.find(wanted, time.monotonic()) if wanted else self.member.plan
        return plan.record if plan is not None else None

    async def _members_of(self, cell: int | None) -> tuple[Signed, ...]:
        """Members of a cell, as many as fit into one answer, a different choice each time.

        Raises:
            InvalidRequest: There is no such cell.
        """
        if cell is None or cell == self.cell:
            return (self.member.record, *_some(self.member.records()))
        if not 0 <= cell < self.cells.count:
            raise InvalidRequest(f"there are {self.cells.count} cells, and none is {cell}")
        return _some(await self.elsewhere.members(cell))

    # ── the root's words ─────────────────────────────────────────────────────────────────────

    def _root_words(self, asked: GetRootWords) -> RootWords:
        cells, trust = self.cells, self.member.trust
        return RootWords(
            cells.record if cells.serial > asked.cells else None,
            trust.revocations if trust.serial > asked.revocations else None,
        )

    async def ask_root_words(self, peer: PeerId) -> RootWords | None:
        """Ask a node what the root said, and take it; None when it does not answer."""
        asked = GetRootWords(self.cells.serial, self.member.trust.serial)
        try:
            reply, _ = await self.ask(peer, asked, timeout_s=ASK_S)
        except HelixError as error:
            log.info("%s does not tell the root's words: %s", peer, error)
            return None
        if not isinstance(reply, RootWords):
            return None
        if reply.cells is not None:
            await self.cells.take(reply.cells)
        if reply.revocations is not None:
            self.driver.on_revocations(reply.revocations)
        return reply

    async def may_come_back(self) -> bool:
        """Whether who leaves now and starts again finds a way in: one it was told, or a member."""
        here = self.member.view.ring
        asked = [*self._named, *random.sample(here, min(len(here), WAYS_IN_TRIED))]
        answers = await asyncio.gather(*(self.ask_root_words(peer) for peer in asked))
        return any(answer is not None for answer in answers)

    def share_root_words(self) -> Coroutine[Any, Any, None]:
        """Ask somebody every minute what the root said, until cancelled."""
        return keep_asking(
            self.ask_root_words,
            ways_in=[peer for peer in self._named if peer != self.member.peer_id],
            members=lambda: self.member.view.ring,
            nodes=self.nodes,
        )


def _some(records: Sequence[Signed]) -> tuple[Signed, ...]:
    """As many as fit into one answer beside our own, a different choice each time."""
    chosen: list[Signed] = []
    size = 0
    for record in random.sample(records, len(records)):
        size += len(record.body) + SIGNED_OVERHEAD_BYTES
        if size > MEMBERS_LIMIT_BYTES:
            break
        chosen.append(record)
    return tuple(chosen)
