"""A bootstrap node: the way into the DHT, a member that holds no layers and never plans.

It keeps the swarm's root key, follows plans to hand them to clients, and hands out the model's
small files. It takes a plan when an admitted planner signed it; what a plan says is rechecked by
those who act on it.

Always: when it is gone, members go on without it; a restart comes back as the same node.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from helix_p2p.cluster.announcement import PeerState
from helix_p2p.cluster.manifest import Manifest
from helix_p2p.engine.hub import find_model
from helix_p2p.errors import ConfigError
from helix_p2p.membership.adoption import HighWater
from helix_p2p.membership.credentials import open_swarm_id_of
from helix_p2p.membership.effects import Effect
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.node.background import background
from helix_p2p.node.cell_keeping import CellKeeper
from helix_p2p.node.config import BootstrapConfig
from helix_p2p.node.entering import presence, reaching
from helix_p2p.node.events import NodeEvent, OnEvent, ignore
from helix_p2p.node.joining import Belonging, found_swarm
from helix_p2p.node.narrator import Narrator
from helix_p2p.node.presence import Place, Presence
from helix_p2p.node.shared_files import read_shared_files
from helix_p2p.node.state import StateDir
from helix_p2p.node.status import NodeStatus, plan_status
from helix_p2p.node.swarm_view import member_statuses
from helix_p2p.planning.plan import SignedPlan

ROOT_WORDS_POLL_S = 1.0

log = logging.getLogger(__name__)


class BootstrapNode:
    """A running bootstrap node; made by `BootstrapNode.running`."""

    def __init__(
        self, config: BootstrapConfig, belonging: Belonging, manifest: Manifest, on_event: OnEvent
    ) -> None:
        self.config = config
        self.belonging = belonging
        self.manifest = manifest
        self._on_event = on_event
        self._narrator = Narrator()
        self._here: Presence | None = None
        self._keeper: CellKeeper | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, config: BootstrapConfig, on_event: OnEvent = ignore
    ) -> "AsyncIterator[BootstrapNode]":
        """Run one for as long as the block lasts.

        Raises:
            HelixError: It cannot start; one line says why.
        """
        with StateDir(config.state_dir) as state:
            model = await asyncio.to_thread(find_model, config.model)
            manifest = await asyncio.to_thread(model.manifest)
            identity = state.identity()
            if config.open_swarm:
                swarm = open_swarm_id_of(manifest.manifest_hash)
                belonging = Belonging(
                    swarm, config.network.bootstrap, manifest.manifest_hash, None, b""
                )
            else:
                belonging = found_swarm(
                    state.swarm_key(), identity, manifest.manifest_hash, config.network.bootstrap
                )

            def member(cell: str) -> MemberConfig:
                mark = state.high_water(cell)
                return MemberConfig(
                    identity=identity,
                    swarm=cell,
                    incarnation=int(time.time() * 1000),
                    validate=_as_signed,
                    root_public_key=belonging.root_public_key,
                    ways_in=belonging.bootstrap,
                    credentials=belonging.credentials,
                    may_plan=False,
                    high_water=HighWater(*mark.order) if mark else None,
                    revocations=state.revocations(),
                    public_name="bootstrap",
                    timing=config.timing,
                )

            files = read_shared_files(model.folder, manifest)
            place = Place(identity, belonging, config.network, state, member, files, roams=False)
            node = cls(config, belonging, manifest, on_event)
            async with (
                reaching(identity, belonging, config.network, state) as transport,
                presence(place, transport, node._observe, node.status) as here,
                background() as tasks,
            ):
                node._here = here
                node._announce()
                tasks.start(node._watch_root_words(here, state))
                if not config.open_swarm:
                    node._keeper = CellKeeper(here, on_event)
                    tasks.start(node._keeper.run())
                try:
                    yield node
                finally:
                    here.driver.leave()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs by which others come in."""
        return tuple(self._here.transport.addresses) if self._here else ()

    def status(self) -> NodeStatus:
        """How it is and whom it knows."""
        assert self._here is not None
        member = self._here.member
        return NodeStatus(
            role="bootstrap",
            peer=member.peer_id,
            swarm=self.belonging.swarm,
            cell=self._here.cell,
            cells=self._here.cells.count,
            trusted=self.belonging.trusted,
            model=self.manifest.name,
            manifest_hash=self.manifest.manifest_hash,
            layers=self.manifest.layers,
            state="running",
            addresses=self.addresses,
            uptime_s=self._here.uptime_s,
            planner=member.planner,
            plan=plan_status(member.plan) if member.plan else None,
            members=member_statuses(member, time.monotonic()),
            elsewhere=self._keeper.elsewhere if self._keeper else (),
        )

    async def _watch_root_words(self, here: Presence, state: StateDir) -> None:
        """Take up what `helix-bootstrap revoke` and `cells` leave in the state folder."""
        while True:
            await asyncio.sleep(ROOT_WORDS_POLL_S)
            here.cells.read_disk()
            try:
                record = await asyncio.to_thread(state.revocations)
            except ConfigError as error:
                log.warning("%s", error)
                continue
            if record is not None and record != here.member.trust.revocations:
                here.driver.on_revocations(record)

    def _announce(self) -> None:
        assert self._here is not None
        own = OwnState(state=PeerState.STANDBY, addresses=self.addresses)
        self._here.driver.set_own(own)

    def _observe(self, effect: Effect) -> None:
        if self._here is None:
            return
        event: NodeEvent | None = self._narrator.event_of(effect, self._here.member.peer_id)
        if event is not None:
            self._on_event(event)


def _as_signed(_plan: SignedPlan, _now_unix_s: float) -> None:
    """The signature and the epoch were checked before; nothing here acts on a plan."""
