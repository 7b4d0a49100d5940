"""A whole swarm in virtual time: membership, election, planning, loading and serving together.

The machines are the production ones: `membership.Member` on every peer, the planner's own `plan`,
`planning.validate` at every adoption, and the serving machines of native mode. Modelled are the
directory (a table that answers in a third of a second), the disk (which never fails), the solver's
time, and how long weights take to arrive.

A swarm of several cells (docs/adr/0029) is as many swarms beside each other, with one network, one
directory and clients that turn from one cell to another.

Always: deterministic for a seed; checked at each adoption: the plan is valid, its order never falls
and is on disk first; checked all along: what native mode checks. A broken invariant names the seed
and how to replay it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random

from helix_p2p import codec
from helix_p2p.cluster.announcement import PeerState
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.errors import HelixError, RecordRejected
from helix_p2p.membership import effects as fx
from helix_p2p.membership.adoption import HighWater
from helix_p2p.membership.cells import cell_id, cell_of
from helix_p2p.membership.credentials import open_swarm_id_of
from helix_p2p.membership.member import Member
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.membership.timing import Now
from helix_p2p.planning.capacity import MTOKENS
from helix_p2p.planning.plan import EdgeFlow, SignedPlan
from helix_p2p.remembered import remember_for
from helix_p2p.session.entry_choice import EntryCandidate
from helix_p2p.session.messages import Generate
from helix_p2p.sim.cell import Cell
from helix_p2p.sim.directory import Directory
from helix_p2p.sim.helix.setup import HelixSetup, StageSetup
from helix_p2p.sim.loading import Loading
from helix_p2p.sim.mind import LINK_KEPT_S, Hardware, Mind, identity_of
from helix_p2p.sim.moving import START_S, Moves
from helix_p2p.sim.native.engine import BrokenInvariant
from helix_p2p.sim.native.peer import SimPeer
from helix_p2p.sim.native.swarm import ServingRules, ServingSwarm, entries_of
from helix_p2p.sim.solving import solve
from helix_p2p.types import PeerId

SWARM = open_swarm_id_of("simulated")
START_UNIX_S = 1_800_000_000.0
MEMBER_TICK_S = 0.5
"""Or as seldom as the member says, where nobody is served."""
DIAL_FAILS_S = 0.02
BOOT_S = 10.0
"""Within which a swarm is switched on."""
LOOK_UP_S = 0.3
PERSIST_S = 0.01


class LivingSwarm(ServingSwarm):
    """See the module's description.

    Args:
        model: What is served.
        hardware: One per peer.
        rules: Of the serving machines; `loss` holds for every message.
        seed: Of everything that is drawn.
        replay_hint: How a person replays this run; part of every broken invariant.
        cells: Into so many the swarm is parted, by the rule that real peers follow.
    """

    def __init__(
        self,
        model: ModelSpec,
        hardware: Sequence[Hardware],
        rules: ServingRules | None = None,
        seed: int = 0,
        replay_hint: str = "",
        cells: int = 1,
    ) -> None:
        remember_for(cells)
        self.model = model
        self.said_bytes: Counter[str] = Counter()
        self.said: Counter[str] = Counter()
        self.crashed = 0
        self.solved = self.searched = 0
        self.plans_adopted = 0
        self._where = replay_hint or f"seed {seed}"
        self._rng = Random(f"living {seed}")
        self.parts = tuple(Cell(cell_id(SWARM, number), model) for number in range(cells))
        self._cells = cells
        self._directory = Directory(SWARM, START_UNIX_S)
        self.minds: dict[PeerId, Mind] = {}
        for number, each in enumerate(hardware):
            identity = identity_of(number)
            cell = self.parts[cell_of(identity.peer_id, SWARM, cells)]
            self.minds[identity.peer_id] = Mind(identity, each, cell)
        for peer, mind in sorted(self.minds.items()):
            mind.cell.peers.append(peer)
        stages = tuple(mind.stage(model) for _, mind in sorted(self.minds.items()))
        setup = HelixSetup(model.layers, model.activation_bytes, stages, ())
        super().__init__(setup, rules, seed)
        self._loading = Loading(self.time, model, self.minds, self.peers, self._tell_state)
        self._moves = Moves(self, self.time, Random(f"moves {seed}"))
        for number, peer in enumerate(self.peers):
            self.time.after(BOOT_S * number / len(self.peers), self._boot, peer)

    # ── what the serving swarm asks ──────────────────────────────────────────────────────────

    def _new_peer(self, stage: StageSetup) -> SimPeer:
        peer = super()._new_peer(stage)
        peer.layers = None
        peer.stage.serve(None)
        return peer

    @property
    def cells(self) -> int:
        """Into how many the swarm is parted."""
        return self._cells

    def entries(self, cell: int) -> list[EntryCandidate]:
        """Who serves layer 0 in a cell now, with the shares of its plan."""
        part = self.parts[cell]
        near = [self.peers[name] for name in part.peers]
        return entries_of(part.flows, [peer for peer in near if peer.alive])

    def planned(self) -> Iterable[EdgeFlow]:
        """Every flow of every cell's plan."""
        return [flow for cell in self.parts[: self._cells] for flow in cell.flows]

    def neighbours(self, name: PeerId) -> Iterable[SimPeer]:
        """Its cell: no stream leads out of it."""
        return [self.peers[peer] for peer in self.minds[name].cell.peers]

    def look_around(self, peers: Iterable[SimPeer] | None = None) -> None:
        """Every peer that serves clients sees what its own membership knows."""
        for peer in list(self.peers.values() if peers is None else peers):
            if not peer.entry.idle:
                self._see(peer)

    def _on_generate(self, peer: SimPeer, request: Generate) -> None:
        self._see(peer)
        super()._on_generate(peer, request)

    def _see(self, peer: SimPeer) -> None:
        """What a node does at each change; here only where somebody asks, which is the same."""
        mind = self.minds[peer.me]
        member = mind.member
        if peer.alive and member is not None:
            if mind.followed is not mind.routed and mind.followed is not None:
                mind.routed = mind.followed
                peer.router.follow(mind.followed)
            epoch = member.plan.plan.epoch if member.plan is not None else 0
            known = (member, member.serving_version, epoch, mind.draining)
            if known == mind.seen:
                return
            mind.seen = known
            now_s, draining = self.time.now_s, mind.draining
            peer.do(peer.entry.see(member.serving(), {}, epoch, now_s, draining=draining))

    def crash(self, name: PeerId) -> None:
        """SIGKILL, of its membership too; its disk and its weights stay."""
        if self.peers[name].alive:
            super().crash(name)
            self.crashed += 1
            self.minds[name].crash()

    def restart(self, name: PeerId) -> None:
        """It joins again with what is on its disk."""
        if not self.peers[name].alive:
            super().restart(name)
            self._boot(name)

    def _everyone_loses(self, name: PeerId) -> None:
        super()._everyone_loses(name)
        linked, self.minds[name].linked = self.minds[name].linked, {}
        for peer, talked_s in linked.items():
            mind = self.minds[peer]
            mind.linked.pop(name, None)
            if mind.member is not None and self.time.now_s - talked_s < LINK_KEPT_S:
                self._act(peer, mind.member.on_peer_lost(name, self._now(mind)))

    # ── cells ────────────────────────────────────────────────────────────────────────────────

    def part(self, cells: int, within_s: float) -> int:
        """The operator's word: so many cells from now on, and who has to move does so.

        Args:
            cells: How many.
            within_s: By when each begins to move.

        Returns:
            How many have to.
        """
        new = range(len(self.parts), cells)
        self.parts += tuple(Cell(cell_id(SWARM, number), self.model) for number in new)
        self._cells = cells
        remember_for(len(self.parts))
        return self._moves.begin(self.minds, within_s)

    def astray(self, name: PeerId) -> bool:
        """Whether it belongs into another cell."""
        return self.minds[name].cell is not self._home(name)

    def _home(self, name: PeerId) -> Cell:
        return self.parts[cell_of(name, SWARM, self._cells)]

    def drain(self, name: PeerId) -> None:
        """It takes nothing new, and tells its cell."""
        mind, peer = self.minds[name], self.peers[name]
        if peer.alive and mind.member is not None:
            mind.draining = True
            peer.stage.serve(peer.layers, draining=True)
            self._tell_state(name, PeerState.DRAINING)
            self._see(peer)

    def drained(self, name: PeerId) -> bool:
        """Whether nothing runs there."""
        peer = self.peers[name]
        return not peer.alive or (peer.entry.idle and not peer.stage.sessions)

    def end(self, name: PeerId) -> None:
        """Last words, and its process ends."""
        mind = self.minds[name]
        if self.peers[name].alive and mind.member is not None:
            self._act(name, mind.member.leave(self._now(mind)))
            super().crash(name)
            mind.crash()

    def settle(self, name: PeerId) -> None:
        """It is up, where it belongs."""
        if self.astray(name):
            if self.peers[name].alive:  # somebody started it again where it was
                self.end(name)
                self.time.after(START_S, self.settle, name)
                return
            self.minds[name].move(self._home(name))
        self.restart(name)

    # ── membership ───────────────────────────────────────────────────────────────────────────

    def _now(self, mind: Mind) -> Now:
        now_s = self.time.now_s
        return Now(1000.0 + now_s, START_UNIX_S + now_s + mind.hardware.clock_offset_s)

    def _boot(self, name: PeerId) -> None:
        mind = self.minds[name]
        now = self._now(mind)
        mind.member = Member(
            MemberConfig(
                identity=mind.identity,
                swarm=mind.cell.swarm,
                incarnation=int(now.unix_s * 1000),
                validate=mind.cell.validate,
                model=self.model,
                high_water=HighWater.decode(mind.disk) if mind.disk else None,
            ),
            Random(self._rng.getrandbits(64)),
            now,
        )
        self._tell_state(name, PeerState.STANDBY)
        self.time.after(self._rng.uniform(0, MEMBER_TICK_S), self._beat, name, mind.runs)

    def _beat(self, name: PeerId, run: int) -> None:
        mind = self.minds[name]
        if mind.runs != run or mind.member is None:
            return
        peer = self.peers[name]
        if not peer.hung:
            self._act(name, mind.member.tick(self._now(mind)))
            if not peer.entry.idle:
                self._see(peer)
            peer.tick()
        pause_s = MEMBER_TICK_S
        if peer.entry.idle and peer.stage.idle:
            pause_s = max(pause_s, mind.member.next_round_s - self._now(mind).s)
        self.time.after(pause_s, self._beat, name, run)

    def _tick(self, peer: SimPeer, life: int) -> None:
        """`_beat` gives the time to the serving machines as well."""

    def _tell_state(self, name: PeerId, state: PeerState) -> None:
        mind, peer = self.minds[name], self.peers[name]
        state = PeerState.DRAINING if mind.draining else state
        if mind.member is not None:
            own = OwnState(
                state,
                mind.hardware.memory_bytes,
                mind.hardware.speed,
                peer.layers,
                downlink_bytes_per_s=mind.hardware.downlink_bytes_per_s,
            )
            self._act(name, mind.member.set_own(own, self._now(mind)))

    def _act(self, name: PeerId, effects: Iterable[fx.Effect]) -> None:
        for effect in effects:
            if type(effect) is fx.SendTo:  # nearly always
                self._say(name, effect.peer, effect.message)
                continue
            match effect:
                case fx.PublishRecord():
                    self._store(effect)
                case fx.LookUpMembers(keys):
                    self._look_up(name, keys)
                case fx.PersistHighWater(mark):
                    self._persist(name, mark)
                case fx.StartPlanning():
                    self._solve(name, effect)
                case fx.Adopted(adopted):
                    self._adopt(name, adopted)
                case _:
                    self.time.note(f"{name} {type(effect).__name__}".encode())

    def _persist(self, name: PeerId, mark: HighWater) -> None:
        self.minds[name].disk = mark.encode()
        self._later(name, PERSIST_S, lambda m, now: m.on_high_water_persisted(mark.hash, now))

    def _later(
        self, name: PeerId, delay_s: float, call: Callable[[Member, Now], Iterable[fx.Effect]]
    ) -> None:
        self.time.after(delay_s, self._call, name, self.minds[name].runs, call)

    def _call(
        self, name: PeerId, run: int, call: Callable[[Member, Now], Iterable[fx.Effect]]
    ) -> None:
        mind = self.minds[name]
        if mind.member is None or mind.runs != run:
            return
        if not self.peers[name].away(self._call, name, run, call):
            self._act(name, call(mind.member, self._now(mind)))

    def _say(self, name: PeerId, to: PeerId, message: fx.MemberMessage) -> None:
        other = self.minds.get(to)
        if other is None:
            return
        if other.member is None or other.cell is not self.minds[name].cell:
            self._later(name, DIAL_FAILS_S, lambda m, now: m.on_unreachable(to, now))
            return
        size = len(codec.encode(message))
        self.said_bytes[type(message).__name__] += size
        self.said[type(message).__name__] += 1
        other.link(name, self.time.now_s)
        self.network.post(name, to, size, self._hear, to, other.runs, name, message)

    def _hear(self, name: PeerId, run: int, sender: PeerId, message: fx.MemberMessage) -> None:
        mind = self.minds[name]
        if mind.member is None or mind.runs != run:
            return
        if not self.peers[name].away(self._hear, name, run, sender, message):
            self._act(name, mind.member.on_message(sender, message, self._now(mind)))

    def _store(self, effect: fx.PublishRecord) -> None:
        key, subkey, expires_in_s = effect.key, effect.subkey, effect.expires_in_s
        try:
            self._directory.store(key, subkey, effect.record, expires_in_s, self.time.now_s)
        except RecordRejected:
            self.time.note(b"record rejected")
        self.said_bytes["directory"] = self._directory.carried_bytes

    def _look_up(self, name: PeerId, keys: tuple[str, ...]) -> None:
        found = self._directory.look_up(keys, self.time.now_s)
        self.said_bytes["directory"] = self._directory.carried_bytes
        self._later(name, LOOK_UP_S, lambda m, now: m.on_records(found, now))

    def _solve(self, name: PeerId, job: fx.StartPlanning) -> None:
        solved = solve(job)
        self.solved += 1
        self.searched += solved.searched
        found, request = solved.placement, job.request
        if isinstance(found, HelixError):
            failed = found
            self._later(name, solved.takes_s, lambda m, now: m.on_plan_failed(request, failed, now))
        else:
            placement = found
            self._later(
                name, solved.takes_s, lambda m, now: m.on_plan_solved(request, placement, now)
            )

    # ── what a plan asks of a peer ───────────────────────────────────────────────────────────

    def _adopt(self, name: PeerId, adopted: SignedPlan) -> None:
        mind = self.minds[name]
        if mind.order is not None and adopted.order < mind.order:
            raise BrokenInvariant(f"{self._where}: {name} went back to an older plan")
        if mind.disk is None or HighWater.decode(mind.disk).order < adopted.order:
            raise BrokenInvariant(f"{self._where}: {name} adopted before its disk knew")
        mind.order = adopted.order
        self.plans_adopted += 1
        self.time.note(adopted.hash)
        placement = adopted.plan.placement
        mind.followed = placement
        mind.cell.placement = placement
        self._loading.follow(name, placement)

    # ── questions ────────────────────────────────────────────────────────────────────────────

    @property
    def member_bytes(self) -> int:
        """All that membership sent, the directory's traffic included."""
        return self.said_bytes.total()

    @property
    def planned_tokens_per_s(self) -> float:
        """What the cells' plans carry together."""
        now = [cell.placement for cell in self.parts[: self._cells]]
        return sum(plan.value_mtokens_per_s for plan in now if plan is not None) / MTOKENS

    def plans(self) -> dict[str, Counter[bytes]]:
        """By a cell's id, how many of its live peers hold which plan; b"" for none."""
        held: dict[str, Counter[bytes]] = {cell.swarm: Counter() for cell in self.parts}
        for mind in self.minds.values():
            if mind.member is not None:
                plan = mind.member.plan
                held[mind.cell.swarm][plan.hash if plan is not None else b""] += 1
        return held

    def one_plan(self) -> bool:
        """Whether every live peer holds the same plan as its whole cell."""
        held = [plans for plans in self.plans().values() if plans]
        return bool(held) and all(len(plans) == 1 and b"" not in plans for plans in held)

    def planners(self) -> list[PeerId]:
        """Who holds the lease, of every cell."""
        return [p for p, m in self.minds.items() if m.member is not None and m.member.is_planner]

    def churn(self, share: float, every_s: float, until_s: float, away_s: float) -> int:
        """Arrange crashes: so large a share of the peers per so many seconds, each coming back.

        Returns:
            How many crashes there will be.
        """
        names = sorted(self.minds)
        rate = share * len(names) / every_s
        at_s, count = self.time.now_s + self._rng.expovariate(rate), 0
        while at_s < until_s:
            victim = self._rng.choice(names)
            self.time.at(at_s, self.crash, victim)
            self.time.at(at_s + self._rng.uniform(0.5, 1.5) * away_s, self.restart, victim)
            at_s += self._rng.expovariate(rate)
            count += 1
        return count
