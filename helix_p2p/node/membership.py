"""Drives the membership machine: its messages, the DHT, the disk, the solver.

Always: the machine is touched on the event loop only; a high-water mark is on disk before its plan
is adopted; the solver and the disk run beside the loop; when a newer planning job is asked for, the
older one's answer is dropped by the machine.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from helix_p2p import codec
from helix_p2p.errors import (
    Cancelled,
    CapacityError,
    DeadlineExceeded,
    DecodeError,
    HelixError,
    SolverError,
)
from helix_p2p.identity import Signed
from helix_p2p.membership.adoption import HighWater
from helix_p2p.membership.effects import (
    Effect,
    LookUpMembers,
    MemberMessage,
    PersistHighWater,
    PersistRevocations,
    PublishRecord,
    SendTo,
    StartPlanning,
)
from helix_p2p.membership.member import Member
from helix_p2p.membership.own import OwnState
from helix_p2p.membership.records import RECORD_LIMIT_BYTES
from helix_p2p.membership.timing import Now
from helix_p2p.net.dht import Directory
from helix_p2p.net.event_loop import next_tick
from helix_p2p.node.state import HighWaterMark, StateDir
from helix_p2p.planning.plan import Placement
from helix_p2p.planning.planner import PlanOptions
from helix_p2p.planning.work import carry_out
from helix_p2p.types import PeerId

log = logging.getLogger(__name__)

TICK_S = 0.25
PLAN_DEADLINE_S = 1.0
PLAN_DEADLINE_MOST_S = 10.0
PLAN_DEADLINE_S_PER_PEER = 0.05

Solve = Callable[[StartPlanning, Callable[[], bool]], Placement]


class MemberLinks(Protocol):
    """Sends without waiting; a failure comes back through `on_unreachable`."""

    def send(self, peer: PeerId, message: MemberMessage, *, urgent: bool = False) -> None:
        """Queue a message.

        Raises:
            Busy: The peer does not keep up.
        """


def now() -> Now:
    """The real time."""
    return Now(time.monotonic(), time.time())


def solve(job: StartPlanning, cancelled: Callable[[], bool]) -> Placement:
    """The planner's job with this node's deadline, which a repair does not need; in a thread."""
    deadline_s = PLAN_DEADLINE_S + len(job.snapshot.peers) * PLAN_DEADLINE_S_PER_PEER
    options = PlanOptions(
        deadline_s=min(deadline_s, PLAN_DEADLINE_MOST_S),
        clock=time.monotonic,
        cancelled=cancelled,
    )
    return carry_out(job.work, job.snapshot, job.live, options)


async def read_members(directory: Directory, keys: Sequence[str]) -> tuple[Signed, ...]:
    """Every record that is found under these keys; what fails is left out.

    Raises:
        DeadlineExceeded: Nothing could be looked up.
    """
    found = await asyncio.gather(*(directory.look_up(key) for key in keys), return_exceptions=True)
    records: list[Signed] = []
    for values in found:
        if isinstance(values, BaseException):
            log.debug("a look-up failed: %s", values)
            continue
        for value in values.values():
            with contextlib.suppress(DecodeError):
                records.append(codec.decode(value, Signed, limit_bytes=RECORD_LIMIT_BYTES))
    if keys and all(isinstance(values, BaseException) for values in found):
        raise DeadlineExceeded("the DHT does not answer")
    return tuple(records)


class MembershipDriver:
    """Carries out the machine's effects; everything else goes to `observe`.

    Args:
        member: The machine.
        links: To other members.
        directory: The DHT.
        state: Where the high-water mark is kept.
        swarm: Swarm id.
        observe: Told of adopted plans, members that come and go, and so on, in order.
        solver: What plans.
    """

    def __init__(
        self,
        member: Member,
        links: MemberLinks,
        directory: Directory,
        state: StateDir,
        swarm: str,
        observe: Callable[[Effect], None],
        solver: Solve = solve,
    ) -> None:
        self.member = member
        self._links = links
        self._directory = directory
        self._state = state
        self._swarm = swarm
        self._observe = observe
        self._solver = solver
        self._tasks: set[asyncio.Task[None]] = set()
        self._newest_job = 0
        self._closed = False

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self._do(self.member.tick(now()))
            await next_tick(TICK_S)

    async def close(self) -> None:
        """Stop what runs beside the loop."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set_own(self, own: OwnState) -> None:
        """This node's state changed."""
        self._do(self.member.set_own(own, now()))

    def leave(self) -> None:
        """Say good-bye."""
        self._do(self.member.leave(now()))

    def on_message(self, peer: PeerId, message: MemberMessage) -> None:
        """A message from an admitted member."""
        self._do(self.member.on_message(peer, message, now()))

    def on_peer_lost(self, peer: PeerId) -> None:
        """A data link to a peer broke."""
        self._do(self.member.on_peer_lost(peer, now()))

    def on_unreachable(self, peer: PeerId) -> None:
        """A message could not be delivered."""
        self._do(self.member.on_unreachable(peer, now()))

    def on_records(self, records: Iterable[Signed]) -> None:
        """Announcements from elsewhere than the DHT."""
        self._do(self.member.on_records(records, now()))

    def on_revocations(self, record: Signed) -> None:
        """The operator on this machine made a new list."""
        self._do(self.member.on_revocations(record, now()))

    # ── effects ──────────────────────────────────────────────────────────────────────────────

    def _do(self, effects: Sequence[Effect]) -> None:
        if self._closed:
            return
        for effect in effects:
            match effect:
                case SendTo(peer, message):
                    try:
                        self._links.send(peer, message)
                    except CapacityError:
                        log.debug("%s does not keep up with membership messages", peer)
                case PublishRecord():
                    self._start(self._publish(effect))
                case LookUpMembers(keys):
                    self._start(self._look_up(keys))
                case PersistHighWater(mark):
                    self._start(self._persist(mark))
                case PersistRevocations(record):
                    self._start(self._keep_revocations(record))
                    self._observe(effect)
                case StartPlanning():
                    self._newest_job = effect.request
                    self._start(self._plan(effect))
                case _:
                    self._observe(effect)

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, effect: PublishRecord) -> None:
        with contextlib.suppress(HelixError):
            await self._directory.publish(
                effect.key,
                effect.subkey,
                codec.encode(effect.record),
                effect.expires_in_s,
            )

    async def _look_up(self, keys: Sequence[str]) -> None:
        try:
            records = await read_members(self._directory, keys)
        except DeadlineExceeded:
            records = ()
        self.on_records(records)

    async def _persist(self, mark: HighWater) -> None:
        try:
            await asyncio.to_thread(
                self._state.raise_high_water, HighWaterMark(self._swarm, mark.order)
            )
        except (HelixError, ValueError) as error:
            log.warning("the high-water mark could not be written: %s", error)
            self._do(self.member.on_high_water_failed(mark.hash, now()))
            return
        self._do(self.member.on_high_water_persisted(mark.hash, now()))

    async def _keep_revocations(self, record: Signed) -> None:
        try:
            await asyncio.to_thread(self._state.keep_revocations, record)
        except HelixError as error:
            log.warning("the list of revocations could not be kept: %s", error)

    async def _plan(self, job: StartPlanning) -> None:
        def cancelled() -> bool:
            return self._closed or self._newest_job != job.request

        try:
            placement = await asyncio.to_thread(self._solver, job, cancelled)
        except Cancelled:
            return
        except HelixError as error:
            self._do(self.member.on_plan_failed(job.request, error, now()))
        except Exception as error:
            log.exception("planning failed")
            wrapped = SolverError(f"planning failed: {error!r}")
            self._do(self.member.on_plan_failed(job.request, wrapped, now()))
        else:
            self._do(self.member.on_plan_solved(job.request, placement, now()))
