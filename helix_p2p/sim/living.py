"""A whole swarm in virtual time: membership, election, planning, loading and serving together.

The machines are the production ones: `membership.Member` on every peer, the planner's own `plan`,
`planning.validate` at every adoption, and the serving machines of native mode. Modelled are the
directory (a table that answers in a third of a second), the disk (which never fails), the solver's
time, and how long weights take to arrive.

Always: deterministic for a seed; checked at each adoption: the plan is valid, its order never falls
and is on disk first; checked all along: what native mode checks. A broken invariant names the seed
and how to replay it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

from helix_p2p import codec
from helix_p2p.cluster.announcement import PeerState
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.errors import HelixError, RecordRejected
from helix_p2p.identity import Identity
from helix_p2p.membership import effects as fx
from helix_p2p.membership.adoption import HighWater, PlanOrder
from helix_p2p.membership.credentials import open_swarm_id_of
from helix_p2p.membership.gossip import MANY
from helix_p2p.membership.member import Member
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.membership.timing import Now
from helix_p2p.planning.options import PlanOptions
from helix_p2p.planning.plan import Placement, SignedPlan
from helix_p2p.planning.validate import PlanRules, validate
from helix_p2p.planning.work import Work, carry_out
from helix_p2p.routing.admission import KvLedger
from helix_p2p.session.messages import Generate
from helix_p2p.sim.directory import Directory
from helix_p2p.sim.helix.setup import HelixSetup, StageSetup, time_tables
from helix_p2p.sim.native.engine import BrokenInvariant
from helix_p2p.sim.native.peer import SimPeer
from helix_p2p.sim.native.swarm import ServingRules, ServingSwarm
from helix_p2p.types import LayerRange, PeerId

SWARM = open_swarm_id_of("simulated")
START_UNIX_S = 1_800_000_000.0
MEMBER_TICK_S, CALM_TICK_S = 0.5, 1.0
"""A member of many acts once a second at most, or in two, and whoever serves nobody needs no finer
time."""
DIAL_FAILS_S = 0.02
LINK_KEPT_S = 30.0
LEAST_LINKS = 64
BOOT_S = 10.0
"""Within which a swarm is switched on."""
LOOK_UP_S = 0.3
PERSIST_S = 0.01
SEARCH_S, REPAIR_S = 1.0, 0.1
SOLVER_STEPS = 40
CUT_OVER_S = 60.0
MOST_PROMPTS = 3


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a volunteer lends.

    Attributes:
        memory_bytes: For weights and KV cache.
        speed: Seconds per layer.
        downlink_bytes_per_s: At which weights arrive.
        clock_offset_s: Of its wall clock.
    """

    memory_bytes: int
    speed: SpeedProfile
    downlink_bytes_per_s: float = 12.5e6
    clock_offset_s: float = 0.0


@dataclass(slots=True)
class _Mind:
    """A peer's membership machine, its disk, and what it loads."""

    identity: Identity
    hardware: Hardware
    member: Member | None = None
    disk: bytes | None = None
    weights: set[int] = field(default_factory=set)
    target: LayerRange | None = None
    order: PlanOrder | None = None
    followed: Placement | None = None
    routed: Placement | None = None
    runs: int = 0
    linked: dict[PeerId, float] = field(default_factory=dict)
    seen: tuple[object, ...] = ()
    prune_at: int = LEAST_LINKS

    def link(self, other: PeerId, now_s: float) -> None:
        """Who said something keeps its stream for a while, and sees this peer's end."""
        self.linked[other] = now_s
        if len(self.linked) > self.prune_at:
            self.linked = {p: s for p, s in self.linked.items() if now_s - s <= LINK_KEPT_S}
            self.prune_at = max(LEAST_LINKS, 2 * len(self.linked))


@cache
def identity_of(number: int) -> Identity:
    """The same peers in every run."""
    return Identity(codec.sha256(f"simulated peer {number}".encode()))


class LivingSwarm(ServingSwarm):
    """See the module's description.

    Args:
        model: What is served.
        hardware: One per peer.
        rules: Of the serving machines; `loss` holds for every message.
        seed: Of everything that is drawn.
        replay_hint: How a person replays this run; part of every broken invariant.
    """

    def __init__(
        self,
        model: ModelSpec,
        hardware: Sequence[Hardware],
        rules: ServingRules | None = None,
        seed: int = 0,
        replay_hint: str = "",
    ) -> None:
        self.model = model
        self.said_bytes: Counter[str] = Counter()
        self.said: Counter[str] = Counter()
        self.crashed = 0
        self.solved = self.searched = 0
        self.plans_adopted = 0
        self._where = replay_hint or f"seed {seed}"
        self._rng = Random(f"living {seed}")
        self._directory = Directory(SWARM, START_UNIX_S)
        self._plan_rules = PlanRules(model=model, swarm=SWARM)
        self._ranges: tuple[Placement, dict[PeerId, LayerRange]] | None = None
        self._checked: dict[bytes, HelixError | None] = {}
        self.minds = {
            identity_of(n).peer_id: _Mind(identity_of(n), each) for n, each in enumerate(hardware)
        }
        stages = tuple(
            StageSetup(
                peer,
                LayerRange(0, model.layers),
                0,
                *time_tables(mind.hardware.speed, MOST_PROMPTS),
                MOST_PROMPTS,
                256,
            )
            for peer, mind in sorted(self.minds.items())
        )
        setup = HelixSetup(model.layers, model.activation_bytes, stages, ())
        super().__init__(setup, rules, seed)
        for number, peer in enumerate(self.peers):
            self.time.after(BOOT_S * number / len(self.peers), self._boot, peer)

    # ── what the serving swarm asks ──────────────────────────────────────────────────────────

    def _new_peer(self, stage: StageSetup) -> SimPeer:
        peer = super()._new_peer(stage)
        peer.layers = None
        peer.stage.serve(None)
        return peer

    def look_around(self) -> None:
        """Every peer that serves clients sees what its own membership knows."""
        for peer in list(self.peers.values()):
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
            known = (member, member.serving_version, epoch)
            if known == mind.seen:
                return
            mind.seen = known
            peer.do(peer.entry.see(member.serving(), {}, epoch, self.time.now_s))

    def crash(self, name: PeerId) -> None:
        """SIGKILL, of its membership too; its disk and its weights stay."""
        if self.peers[name].alive:
            super().crash(name)
            self.crashed += 1
            mind = self.minds[name]
            mind.member, mind.target = None, None
            mind.followed, mind.routed, mind.seen = None, None, ()
            mind.runs += 1

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

    # ── membership ───────────────────────────────────────────────────────────────────────────

    def _now(self, mind: _Mind) -> Now:
        now_s = self.time.now_s
        return Now(1000.0 + now_s, START_UNIX_S + now_s + mind.hardware.clock_offset_s)

    def _boot(self, name: PeerId) -> None:
        mind = self.minds[name]
        now = self._now(mind)
        mind.member = Member(
            MemberConfig(
                identity=mind.identity,
                swarm=SWARM,
                incarnation=int(now.unix_s * 1000),
                validate=self._validate,
                model=self.model,
                high_water=HighWater.decode(mind.disk) if mind.disk else None,
            ),
            Random(self._rng.getrandbits(64)),
            now,
        )
        self._announce(name, PeerState.STANDBY)
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
        if len(self.peers) > MANY and peer.entry.idle and peer.stage.idle:
            pause_s = 2 * CALM_TICK_S if mind.member.is_calm(self._now(mind)) else CALM_TICK_S
        self.time.after(pause_s, self._beat, name, run)

    def _tick(self, peer: SimPeer, life: int) -> None:
        """`_beat` gives the time to the serving machines as well."""

    def _announce(self, name: PeerId, state: PeerState) -> None:
        mind, peer = self.minds[name], self.peers[name]
        if mind.member is not None:
            own = OwnState(
                state,
                mind.hardware.memory_bytes,
                mind.hardware.speed,
                peer.layers,
                downlink_bytes_per_s=mind.hardware.downlink_bytes_per_s,
            )
            self._act(name, mind.member.set_own(own, self._now(mind)))

    def _validate(self, signed: SignedPlan, now_unix_s: float) -> None:
        """The production rules; their verdict on one plan is the same for all, so asked once."""
        if signed.hash not in self._checked:
            try:
                validate(signed, self._plan_rules, now_unix_s)
                self._checked[signed.hash] = None
            except HelixError as error:
                self._checked[signed.hash] = error
        verdict = self._checked[signed.hash]
        if verdict is not None:
            raise verdict

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
        if other.member is None:
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
        searched = job.live is None or job.work is Work.IMPROVE
        self.solved += 1
        self.searched += searched
        takes_s = SEARCH_S if searched else REPAIR_S
        try:
            options = PlanOptions(steps=SOLVER_STEPS)
            placement = carry_out(job.work, job.snapshot, job.live, options)
        except HelixError as error:
            failed = error
            self._later(name, takes_s, lambda m, now: m.on_plan_failed(job.request, failed, now))
        else:
            self._later(name, takes_s, lambda m, now: m.on_plan_solved(job.request, placement, now))

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
        self.flows = placement.flows
        target = self._ranges_of(placement).get(name)
        if target != mind.target:
            mind.target = target
            self._follow(name, placement)

    def _ranges_of(self, placement: Placement) -> dict[PeerId, LayerRange]:
        """By peer; the same for all who adopt it."""
        if self._ranges is None or self._ranges[0] is not placement:
            self._ranges = placement, {a.peer: a.layers for a in placement.assignments}
        return self._ranges[1]

    def _follow(self, name: PeerId, placement: Placement) -> None:
        mind, peer = self.minds[name], self.peers[name]
        target = mind.target
        if target is None:
            self._serve(name, None, PeerState.STANDBY)
            return
        missing = set(target) - mind.weights
        size = len(missing) * self.model.layer_bytes
        self._announce(name, PeerState.LOADING)
        load_s = 0.5 + size / mind.hardware.downlink_bytes_per_s
        self.time.after(load_s, self._loaded, name, peer.life, target, placement)

    def _loaded(self, name: PeerId, life: int, target: LayerRange, placement: Placement) -> None:
        mind, peer = self.minds[name], self.peers[name]
        if peer.life != life or mind.target != target:
            return
        mind.weights |= set(target)
        both = _union(peer.layers, target)
        room = self.minds[name].hardware.memory_bytes
        if both is not None and both != target and self.model.weight_bytes(both) < room:
            self._serve(name, both, PeerState.SERVING)
            deadline_s = self.time.now_s + CUT_OVER_S
            self._cut_over(name, life, target, placement, deadline_s)
        else:
            self._serve(name, target, PeerState.SERVING)

    def _cut_over(
        self, name: PeerId, life: int, target: LayerRange, placement: Placement, deadline_s: float
    ) -> None:
        """Serve old and new until everyone of the plan is there."""
        mind, peer = self.minds[name], self.peers[name]
        if peer.life != life or mind.target != target or mind.member is None:
            return
        member = mind.member
        complete = all(
            (held := member.serving_of(a.peer)) is not None and held.contains(a.layers)
            for a in placement.assignments
        )
        if complete or self.time.now_s >= deadline_s:
            self._serve(name, target, PeerState.SERVING)
        else:
            self.time.after(1.0, self._cut_over, name, life, target, placement, deadline_s)

    def _serve(self, name: PeerId, layers: LayerRange | None, state: PeerState) -> None:
        peer = self.peers[name]
        peer.layers = layers
        peer.stage.serve(layers)
        if layers is not None:
            mind = self.minds[name]
            free = mind.hardware.memory_bytes - self.model.weight_bytes(layers)
            _resize(peer.ledger, free // max(1, self.model.kv_bytes_per_token))
        self._announce(name, state)

    # ── questions ────────────────────────────────────────────────────────────────────────────

    @property
    def member_bytes(self) -> int:
        """All that membership sent, the directory's traffic included."""
        return self.said_bytes.total()

    def one_plan(self) -> bool:
        """Whether every live peer holds the same plan."""
        members = [m.member for m in self.minds.values() if m.member is not None]
        plans = {m.plan.hash if m.plan is not None else b"" for m in members}
        return len(plans) == 1 and b"" not in plans

    def planners(self) -> list[PeerId]:
        """Who holds the lease."""
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


def _union(old: LayerRange | None, new: LayerRange) -> LayerRange | None:
    """Both ranges as one where they touch."""
    if old is None or old.end < new.start or new.end < old.start:
        return None
    return LayerRange(min(old.start, new.start), max(old.end, new.end))


def _resize(ledger: KvLedger, capacity_token_layers: int) -> None:
    ledger.resize(max(0, capacity_token_layers))


__all__ = ["Hardware", "LivingSwarm", "identity_of"]
