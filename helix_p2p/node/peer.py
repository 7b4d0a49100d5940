"""A peer: lends a device, holds the layers that the plan gives it, serves stages and clients.

    invite, model ─▶ belonging ─▶ loan (device, engine, measured speed) ─▶ presence in the swarm
    plan adopted ─▶ loader follows its range ─▶ announced ─▶ routes use it
    members change ─▶ the entry machine sees who serves what

Always: what is announced as served is loaded and was tested; leaving finishes what runs here; the
whole life is one `async with`, so whatever ends it, everything that was started is stopped.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator
from random import SystemRandom, random

from helix_p2p.cluster.announcement import PeerState
from helix_p2p.engine.hub import FoundModel, find_model
from helix_p2p.errors import ConfigError, HelixError, ModelError
from helix_p2p.identity import Identity
from helix_p2p.membership import effects as fx
from helix_p2p.membership.adoption import HighWater
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.invite import Invite
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.net.event_loop import next_tick
from helix_p2p.net.links import LinkPool
from helix_p2p.node import heap
from helix_p2p.node.background import background
from helix_p2p.node.clients import ClientService
from helix_p2p.node.compute import ComputeThread
from helix_p2p.node.config import PeerConfig
from helix_p2p.node.entering import presence, reaching
from helix_p2p.node.events import NodeEvent, OnEvent, ignore
from helix_p2p.node.joining import Belonging, belong, usable_invite
from helix_p2p.node.lending import Loan, lend, measured_event
from helix_p2p.node.loading import Held, LayerLoader
from helix_p2p.node.narrator import Narrator
from helix_p2p.node.presence import Place, Presence
from helix_p2p.node.rechecking import Outcome, Rechecker, TraceService
from helix_p2p.node.serving import Serving
from helix_p2p.node.shared_files import read_shared_files
from helix_p2p.node.state import StateDir
from helix_p2p.node.status import NodeStatus, plan_status
from helix_p2p.node.swarm_view import has_role, hosts_of, member_statuses, what_is_missing
from helix_p2p.node.witnessing import Witness
from helix_p2p.node.worth import tell_worth
from helix_p2p.planning.validate import PlanRules, validate
from helix_p2p.routing.recheck import Rechecks, Verdict
from helix_p2p.types import LayerRange, PeerId
from helix_p2p.wire.registry import Message

log = logging.getLogger(__name__)

TICK_S = 0.125
CELLS_POLL_S, WAY_BACK_S = 1.0, 30.0
LEFT_OUT_S = 30.0
"""A plan whose planner did not know this peer comes from the other side of a partition. After the
merge one plan for both sides took 20 s (six peers, one of them cut off alone for 15 s); until then
this peer serves what it has."""


class PeerNode:
    """A running peer; made by `PeerNode.running`."""

    def __init__(
        self, config: PeerConfig, belonging: Belonging, loan: Loan, on_event: OnEvent
    ) -> None:
        self.config = config
        self.belonging = belonging
        self.loan = loan
        self._on_event = on_event
        self._narrator = Narrator()
        self._compute = ComputeThread()
        self._detail = ""
        self._draining = False
        self._counted = asyncio.Event()
        self.moves = asyncio.Event()
        """Set when this peer belongs into another cell: it is to leave, and to run again."""
        self._own = OwnState(memory_bytes=loan.memory_bytes, speed=loan.speed, held=loan.held)
        self._witness: Witness | None = None
        self._here: Presence | None = None
        self._links: LinkPool | None = None
        self._serving: Serving | None = None
        self._rechecks: Rechecks | None = None
        self._loader = LayerLoader(
            loan.engine,
            self._compute,
            in_use=self._layers_in_use,
            complete=self._plan_is_complete,
            changed=self._on_held,
            drain_s=config.limits.drain_s,
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, config: PeerConfig, on_event: OnEvent = ignore
    ) -> "AsyncIterator[PeerNode]":
        """Run one for as long as the block lasts.

        Raises:
            HelixError: It cannot start; one line says why.
        """
        with StateDir(config.state_dir) as state:
            identity = state.identity()
            invite = usable_invite(config.invite, time.time()) if config.invite else None
            model = await asyncio.to_thread(_model_to_serve, config.model, invite)
            manifest = await asyncio.to_thread(model.manifest)
            manifest_hash = manifest.manifest_hash
            belonging = belong(config.network.bootstrap, invite, identity, manifest_hash)
            async with reaching(identity, belonging, config.network, state) as transport:
                on_event(NodeEvent("measuring", "finding the device and measuring its speed"))
                loan = await asyncio.to_thread(lend, config, model.folder, manifest, model.refetch)
                on_event(measured_event(loan))
                await asyncio.to_thread(_set_garbage_aside)
                node = cls(config, belonging, loan, on_event)
                place = node._place(identity, state, read_shared_files(model.folder, manifest))
                try:
                    async with (
                        presence(place, transport, node._observe, node.status) as here,
                        node._serve(here),
                    ):
                        yield node
                finally:
                    await node._compute.close()

    @property
    def serving(self) -> Serving:
        """Its stages and the generations it is the entry peer of."""
        assert self._serving is not None
        return self._serving

    @property
    def here(self) -> Presence:
        """Its presence in the swarm."""
        assert self._here is not None
        return self._here

    async def leave(self) -> None:
        """Take nothing new, let what runs here finish (at most `drain_s`), say good-bye."""
        if self._here is None or self._draining:
            return
        self._draining = True
        self._set_own(PeerState.DRAINING, self._own.serving)
        self.serving.serve(self._own.serving, draining=True)
        self._see()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.limits.drain_s):
                while not self.serving.idle:  # noqa: ASYNC110 - the machines are pure: no events
                    await asyncio.sleep(TICK_S)
        self.here.driver.leave()

    def status(self) -> NodeStatus:
        """How it is and how it sees the swarm."""
        member, spec, stats = self.here.member, self.loan.spec, self.serving.entry.stats
        to_hold = member.plan.plan.placement.range_of(member.peer_id) if member.plan else None
        ledger = self.serving.ledger
        held = self.loan.engine.held
        return NodeStatus(
            role="peer",
            peer=member.peer_id,
            swarm=self.belonging.swarm,
            cell=self.here.cell,
            cells=self.here.cells.count,
            trusted=self.belonging.trusted,
            model=spec.name,
            manifest_hash=spec.manifest_hash,
            layers=spec.layers,
            state=self._own.state,
            detail=self._detail or self._why_not_serving(),
            addresses=tuple(self.here.transport.addresses),
            device=self.loan.hardware.name,
            dtype=self.loan.held_in,
            memory_bytes=self.loan.memory_bytes,
            holds=(min(held), max(held) + 1) if held else None,
            to_hold=(to_hold.start, to_hold.end) if to_hold else None,
            loaded_layers=len(held.intersection(to_hold)) if to_hold else 0,
            entry_sessions=self.serving.entry.running,
            stage_sessions=self.serving.stage.sessions,
            waiting_sessions=self.serving.entry.waiting,
            kv_used=ledger.used_token_layers / max(1, ledger.capacity_token_layers),
            tokens_delivered=stats.tokens,
            failovers=stats.repairs,
            uptime_s=self.here.uptime_s,
            planner=member.planner,
            plan=plan_status(member.plan) if member.plan else None,
            members=member_statuses(member, time.monotonic()),
        )

    # ── start ────────────────────────────────────────────────────────────────────────────────

    def _place(self, identity: Identity, state: StateDir, files: dict[str, bytes]) -> Place:
        belonging, spec = self.belonging, self.loan.spec

        def member(cell: str) -> MemberConfig:
            mark = state.high_water(cell)
            rules = PlanRules(
                spec,
                cell,
                may_plan=lambda peer, said: (
                    said.may_plan and has_role(belonging, peer, said, Role.PLANNER)
                ),
                may_serve=lambda peer, said: has_role(belonging, peer, said, Role.PEER),
            )
            return MemberConfig(
                identity=identity,
                swarm=cell,
                incarnation=int(time.time() * 1000),
                validate=lambda plan, now_unix_s: validate(plan, rules, now_unix_s),
                model=spec,
                root_public_key=belonging.root_public_key,
                ways_in=belonging.bootstrap,
                credentials=belonging.credentials,
                may_plan=self.config.may_plan,
                high_water=HighWater(*mark.order) if mark else None,
                revocations=state.revocations(),
                public_name=self.config.public_name,
                device=self.loan.hardware.name,
                timing=self.config.timing,
            )

        return Place(identity, belonging, self.config.network, state, member, files)

    @contextlib.asynccontextmanager
    async def _serve(self, here: Presence) -> AsyncIterator[None]:
        """Open the data plane, announce ourselves, follow the plan."""
        links = LinkPool(
            here.transport,
            here.members_only,
            on_message=self._on_peer_message,
            on_lost=self._on_link_lost,
            addresses=here.addresses_of,
        )
        self._serving = Serving(
            here.member.peer_id,
            self.loan.engine,
            self._compute,
            links,
            self.config.limits,
            time.monotonic,
            self.loan.held_in,
        )
        self._links = links
        self._here = here
        self._witness = witness = Witness(
            here, self.loan.spec, self.config.uplink_bytes_per_s, self._on_found
        )
        here.control.checks = TraceService(self._serving, time.monotonic).answer
        self._rechecks = Rechecks(here.member.peer_id, SystemRandom())
        checker = Rechecker(
            self._serving,
            here,
            self._rechecks,
            self._holders,
            time.monotonic,
            self._on_checked,
        )
        clients = ClientService(self._serving, here.anyone.requiring(Role.CLIENT))
        async with links, background() as tasks:
            await clients.start(here.transport)
            self._set_own(PeerState.STANDBY, None)
            self._on_event(self._joined())
            tasks.start(self._loader.run())
            tasks.start(self._tick())
            tasks.start(self._compute.watch())
            tasks.start(heap.keep_small())
            tasks.start(witness.measure_ways())
            tasks.start(witness.time_paces())
            tasks.start(checker.run())
            tasks.start(tell_worth(here.member, self._counted, self._on_event))
            tasks.start(self._watch_cells(here))
            yield

    async def _tick(self) -> None:
        while True:
            await next_tick(TICK_S)
            self.serving.oldest_epoch = self._oldest_epoch()
            self.serving.tick()

    async def _watch_cells(self, here: Presence) -> None:
        """Say when to move into another cell; not all at once, for the cell's sake."""
        while not self.moves.is_set():
            await asyncio.sleep(CELLS_POLL_S)
            if here.should_move:
                await asyncio.sleep(random() * self.config.move_within_s)
                while here.should_move and not await here.may_come_back():  # noqa: ASYNC110
                    await asyncio.sleep(WAY_BACK_S)
                if here.should_move:
                    self._on_event(NodeEvent("moving", "moving to another cell of the swarm"))
                    self.moves.set()

    # ── what happens ─────────────────────────────────────────────────────────────────────────

    def _on_found(self) -> None:
        """There is more to say of others."""
        self._set_own(self._own.state, self._own.serving)

    def _on_held(self, held: Held) -> None:
        """The loader says what is served now."""
        self._detail = str(held.error) if held.error else ""
        self.serving.serve(held.serving, draining=self._draining)
        if held.state is PeerState.LOADING:
            self.serving.make_room()
        state = PeerState.DRAINING if self._draining else held.state
        if (state, held.serving) != (self._own.state, self._own.serving):
            layers = [held.serving.start, held.serving.end] if held.serving else None
            text = f"{state}" + (f" layers {held.serving}" if held.serving else "")
            self._on_event(NodeEvent("state", text, {"state": state, "serving": layers}))
        if held.error is not None:
            data = {"code": held.error.code}
            self._on_event(NodeEvent("trouble", str(held.error), data))
        self._set_own(state, held.serving)
        self._see()

    def _observe(self, effect: fx.Effect) -> None:
        """Membership found something out."""
        if self._here is None:
            return
        match effect:
            case fx.Adopted(plan):
                placement = plan.plan.placement
                self.serving.follow(placement)
                me = self.here.member.peer_id
                known = me in plan.plan.announced
                if known:
                    self._counted.set()
                self._loader.want(placement.range_of(me), after_s=0.0 if known else LEFT_OUT_S)
            case fx.MemberLost(peer):
                self.serving.on_peer_lost(peer)
            case _:
                pass
        self._see()
        event = self._narrator.event_of(effect, self.here.member.peer_id)
        if event is not None:
            self._on_event(event)

    def _layers_in_use(self) -> tuple[LayerRange, ...]:
        return self.serving.stage.layers_in_use()

    def _why_not_serving(self) -> str:
        member = self.here.member
        if member.plan is not None and self._plan_is_complete():
            return ""
        return what_is_missing(member.snapshot())

    def _oldest_epoch(self) -> int:
        """The oldest plan whose routes are taken: the current one, for a while the one before."""
        adoption = self.here.member.adoption
        oldest = adoption.previous(time.monotonic()) or adoption.current
        return int(oldest.plan.epoch) if oldest else 0

    def _plan_is_complete(self) -> bool:
        """Whether every member that the plan gives layers serves them."""
        member = self.here.member
        serving, plan = member.serving(), member.plan
        return plan is None or all(
            (held := serving.get(it.peer)) is not None and held.contains(it.layers)
            for it in plan.plan.placement.assignments
            if it.peer == member.peer_id or it.peer in member.view
        )

    def _on_peer_message(self, peer: PeerId, message: Message, payload: bytearray) -> None:
        self.serving.on_peer_message(peer, message, payload)

    def _on_link_lost(self, peer: PeerId, error: HelixError) -> None:
        log.info("the link to %s was lost: %s", peer, error)
        self.serving.on_peer_lost(peer)
        self.here.driver.on_peer_lost(peer)

    def _holders(self, layers: LayerRange) -> list[PeerId]:
        """Who could run these layers again."""
        serving = self.here.member.serving()
        return [peer for peer, held in serving.items() if held.contains(layers)]

    def _on_checked(self, outcome: Outcome) -> None:
        """A check of another peer's computing has ended."""
        if outcome.verdict is Verdict.SOUND:
            return
        text = f"a check of …{outcome.peer[-8:]}, layers {outcome.layers}: {outcome.verdict.value}"
        data = {"peer": outcome.peer, "verdict": outcome.verdict.value}
        self._on_event(NodeEvent("checked", text, data))
        self._see()

    def _see(self) -> None:
        """Tell the entry machine who serves what, less those who were found to compute wrongly."""
        member = self.here.member
        shunned = self._rechecks.all_shunned(time.monotonic()) if self._rechecks else ()
        plan = member.plan
        self.serving.see(
            {p: h for p, h in member.serving().items() if p not in shunned},
            hosts_of(member.announcements()),
            int(plan.plan.epoch) if plan else 0,
            draining=self._draining,
        )

    def _set_own(self, state: PeerState, layers: LayerRange | None) -> None:
        assert self._witness is not None
        ways = self._witness.ways
        self._own = OwnState(
            state=state,
            memory_bytes=self.loan.memory_bytes,
            speed=self.loan.speed,
            serving=layers,
            addresses=tuple(self.here.transport.addresses),
            links=ways.links,
            uplink_bytes_per_s=ways.uplink_bytes_per_s,
            downlink_bytes_per_s=ways.downlink_bytes_per_s,
            held=self.loan.held,
            paces=self._witness.paces,
        )
        self.here.driver.set_own(self._own)

    def _joined(self) -> NodeEvent:
        member = self.here.member
        data = {
            "peer": member.peer_id,
            "swarm": self.belonging.swarm,
            "cell": self.here.cell,
            "trusted": self.belonging.trusted,
            "addresses": list(self.here.transport.addresses),
        }
        return NodeEvent("joined", f"in the swarm {self.belonging.swarm} as {member.peer_id}", data)


def _set_garbage_aside() -> None:
    """Keep what the imports made out of every later collection.

    torch and transformers leave some 390,000 objects; looking at all of them stops every thread for
    0.2 s, in the middle of somebody's answer.
    """
    gc.collect()
    gc.freeze()


def _model_to_serve(asked_for: str | None, invite: Invite | None) -> FoundModel:
    """The model that is asked for, or that the invite names; fetched where it is not here.

    Raises:
        ConfigError: None is named.
        ModelError: It is not to be had.
    """
    named = asked_for or (invite.model_name if invite else None)
    if named is None:
        raise ConfigError("no model is named", hint="give its folder or org/name with --model")
    try:
        return find_model(named)
    except ModelError as error:
        if asked_for is None and "/" not in named:  # a folder's name, which leads nowhere here
            raise ModelError(
                f"the swarm serves the folder {named}, which others cannot fetch",
                hint="name your own copy of it with --model",
            ) from error
        raise
