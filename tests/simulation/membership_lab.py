"""A swarm of production membership machines in virtual time: loss, skew, crashes, partitions.

Everything is drawn from one seed. The invariants are checked at every adoption, so a run that ends
has kept them; a failure names the seed.
"""

import heapq
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from random import Random
from typing import TypeVar

from helix_p2p import codec
from helix_p2p.cluster.announcement import PeerState
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import PlanRejected, RecordRejected, SwarmTooSmall
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership import effects as fx
from helix_p2p.membership.adoption import HighWater, PlanOrder, Validator, highest_epoch_at
from helix_p2p.membership.credentials import open_swarm_id_of
from helix_p2p.membership.member import Member
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.membership.records import RecordRules, check_record
from helix_p2p.membership.timing import MembershipTiming, Now
from helix_p2p.planning.plan import Assignment, EdgeFlow, MinCut, Placement, SignedPlan
from helix_p2p.types import LayerRange, PeerId

E = TypeVar("E")
SWARM = open_swarm_id_of("lab")
START_UNIX_S = 1_800_000_000.0
TICK_S = 0.25
LAYER_BYTES = 1_000
SPEED = SpeedProfile(prefill=((64, 0.01),), decode=((1, 0.001), (8, 0.002)))
MODEL = ModelSpec("lab/model", "ab" * 32, 12, 8, 100, 2048, LAYER_BYTES, 0, 0, 1, 32)


@cache
def identity(number: int) -> Identity:
    """The same peers in every run; making a key costs time."""
    return Identity(codec.sha256(f"peer {number}".encode()))


def check_plan(signed: SignedPlan, _now_unix_s: float) -> None:
    """The lab's rule in place of `planning.validate`: every layer is held by announced peers."""
    plan = signed.plan
    if plan.placement.solver == "evil":
        raise PlanRejected("coverage", "an evil plan")
    held = {layer for a in plan.placement.assignments for layer in a.layers}
    if held != set(range(MODEL.layers)):
        raise PlanRejected("coverage", "a layer is not held")
    named = set(plan.announced)
    if not {a.peer for a in plan.placement.assignments} <= named:
        raise PlanRejected("announcement", "a peer is not announced")


def solve(snapshot: Snapshot) -> Placement:
    """An even split, deterministic."""
    layers = snapshot.model.layers
    peers = [p.peer for p in snapshot.peers if p.memory_bytes >= LAYER_BYTES]
    room = sum(p.memory_bytes // LAYER_BYTES for p in snapshot.peers)
    if room < layers:
        raise SwarmTooSmall(missing_bytes=(layers - room) * LAYER_BYTES, total_peers=len(peers))
    peers = peers[:layers]
    cuts = [layers * i // len(peers) for i in range(len(peers) + 1)]
    held = tuple(Assignment(peer, LayerRange(cuts[i], cuts[i + 1])) for i, peer in enumerate(peers))
    way: list[PeerId | None] = [None, *peers, None]
    flows = tuple(EdgeFlow(a, b, 1000) for a, b in pairwise(way))
    return Placement(held, flows, 1000, 1000, MinCut(layer=0), "even", 0.0)


@dataclass
class LabPeer:
    """One machine with its clock, its disk and its history."""

    number: int
    identity: Identity
    offset_s: float
    rate: float
    may_plan: bool
    layers: int
    member: Member | None = None
    disk: bytes | None = None
    runs: int = 0
    paused: bool = False
    side: int = 0
    last_order: PlanOrder | None = None
    adopted: list[tuple[float, SignedPlan]] = field(default_factory=list)
    events: list[tuple[float, object]] = field(default_factory=list)

    @property
    def peer(self) -> PeerId:
        return self.identity.peer_id

    def now(self, t: float) -> Now:
        """The time as this machine's clocks show it."""
        return Now(
            1000.0 + self.number + t * self.rate, START_UNIX_S + t * self.rate + self.offset_s
        )


class Lab:
    """See the module's description."""

    def __init__(
        self,
        seed: int,
        peers: int,
        *,
        loss: float = 0.0,
        skew_s: float = 0.0,
        drift: float = 0.0,
        layers: int = 4,
        bootstraps: int = 0,
        timing: MembershipTiming | None = None,
        ping_everyone_up_to: int = 16,
        fan_out: int = 8,
        carried_limit_bytes: int = 32 * 1024,
        check: Validator = check_plan,
        plan: Callable[[Snapshot], Placement] = solve,
    ) -> None:
        self.rng = Random(seed)
        self.seed = seed
        self.t = 0.0
        self.loss = loss
        self.timing = timing or MembershipTiming()
        self.ping_everyone_up_to = ping_everyone_up_to
        self.fan_out = fan_out
        self.carried_limit_bytes = carried_limit_bytes
        self.check = check
        self.plan = plan
        self.sent = 0
        self.dht: dict[tuple[str, str], tuple[bytes, float]] = {}
        self.dht_up = True
        self.overheard: list[Signed] = []
        self.cut: set[frozenset[PeerId]] = set()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.peers = [
            LabPeer(
                number,
                identity(number),
                self.rng.uniform(-skew_s, skew_s),
                1 + self.rng.uniform(-drift, drift),
                may_plan=number < peers,
                layers=layers if number < peers else 0,
            )
            for number in range(peers + bootstraps)
        ]
        self.by_id = {p.peer: p for p in self.peers}

    # ── time ────────────────────────────────────────────────────────────────────────────────────

    def at(self, t: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (t, self._count, action))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], seconds: float) -> float | None:
        """Let time pass until the condition holds; how long it took, None when it never did."""
        start, end = self.t, self.t + seconds
        checked = -1.0
        while self._queue and self._queue[0][0] <= end:
            t, _, action = heapq.heappop(self._queue)
            self.t = t
            action()
            if self.t > checked + 0.1:
                checked = self.t
                if condition():
                    return self.t - start
        self.t = end
        return end - start if condition() else None

    # ── machines ────────────────────────────────────────────────────────────────────────────────

    def start(self, p: LabPeer) -> Member:
        """Boot, with what is on the disk."""
        p.runs += 1
        now = p.now(self.t)
        member = p.member = Member(
            MemberConfig(
                identity=p.identity,
                swarm=SWARM,
                incarnation=int(now.unix_s * 1000),
                validate=self.check,
                model=MODEL,
                may_plan=p.may_plan,
                high_water=HighWater.decode(p.disk) if p.disk else None,
                timing=self.timing,
                ping_everyone_up_to=self.ping_everyone_up_to,
                fan_out=self.fan_out,
                carried_limit_bytes=self.carried_limit_bytes,
            ),
            Random(self.rng.getrandbits(64)),
            now,
        )
        if p.layers:
            own = OwnState(PeerState.STANDBY, p.layers * LAYER_BYTES + 200, SPEED)
            self.act(p, member.set_own(own, now))
        self.at(self.t + self.rng.uniform(0, TICK_S), lambda: self._tick(p, member))
        return member

    def start_all(self) -> None:
        for p in self.peers:
            self.start(p)

    def crash(self, p: LabPeer) -> None:
        """SIGKILL: every open stream ends at once."""
        p.member = None
        for other in self.peers:
            if other is not p and not self.apart(p, other):
                self._later(other, 0.05, lambda member, now: member.on_peer_lost(p.peer, now))

    def leave(self, p: LabPeer) -> None:
        assert p.member is not None
        self.act(p, p.member.leave(p.now(self.t)))
        p.member = None

    def _tick(self, p: LabPeer, member: Member) -> None:
        if p.member is not member:
            return
        if not p.paused:
            self.act(p, member.tick(p.now(self.t)))
        self.at(self.t + TICK_S, lambda: self._tick(p, member))

    def _later(
        self, p: LabPeer, delay_s: float, call: Callable[[Member, Now], tuple[fx.Effect, ...]]
    ) -> None:
        run = p.runs

        def act() -> None:
            if p.paused:
                self.at(self.t + 0.5, act)
            elif p.member is not None and p.runs == run:
                self.act(p, call(p.member, p.now(self.t)))

        self.at(self.t + delay_s, act)

    # ── effects ─────────────────────────────────────────────────────────────────────────────────

    def act(self, p: LabPeer, effects: tuple[fx.Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case fx.SendTo(to, message):
                    self.send(p, to, message)
                case fx.PublishRecord(key, subkey, record, expires_in_s):
                    self.overheard.append(record)
                    self._store(key, subkey, codec.encode(record), expires_in_s)
                case fx.LookUpMembers(keys):
                    self._look_up(p, keys)
                case fx.PersistHighWater(mark):
                    p.disk = mark.encode()
                    self._persisted(p, mark.hash)
                case fx.StartPlanning():
                    self._solve(p, effect)
                case fx.Adopted(plan):
                    self._check_adopted(p, plan)
                case _:
                    p.events.append((self.t, effect))

    def send(self, p: LabPeer, to: PeerId, message: fx.MemberMessage) -> None:
        self.sent += 1
        other = self.by_id.get(to)
        if other is None:
            return
        lost = self.rng.random() < self.loss
        if lost or self.apart(p, other) or frozenset({p.peer, to}) in self.cut:
            return
        if other.member is None:
            self._later(p, 0.02, lambda member, now: member.on_unreachable(to, now))
            return
        delay_s = self.rng.uniform(0.005, 0.08)
        self._later(other, delay_s, lambda member, now: member.on_message(p.peer, message, now))

    def apart(self, p: LabPeer, other: LabPeer) -> bool:
        """Whether a partition separates two peers."""
        return p.side != other.side

    def _persisted(self, p: LabPeer, plan_hash: bytes) -> None:
        self._later(p, 0.01, lambda member, now: member.on_high_water_persisted(plan_hash, now))

    def _store(self, key: str, subkey: str, value: bytes, expires_in_s: float) -> None:
        if not self.dht_up:
            return
        try:
            check_record(
                key,
                subkey,
                value,
                expires_in_s,
                rules=RecordRules(SWARM),
                now_unix_s=START_UNIX_S + self.t,
            )
        except RecordRejected:
            return
        self.dht[key, subkey] = (value, self.t + expires_in_s)

    def _look_up(self, p: LabPeer, keys: tuple[str, ...]) -> None:
        if not self.dht_up:
            return
        found = [
            codec.decode(value, Signed, limit_bytes=20_000)
            for (key, _), (value, until) in self.dht.items()
            if key in keys and until > self.t
        ]
        self._later(p, 0.3, lambda member, now: member.on_records(found, now))

    def _solve(self, p: LabPeer, job: fx.StartPlanning) -> None:
        delay_s = self.rng.uniform(0.1, 1.0)
        try:
            placement = self.plan(job.snapshot)
        except SwarmTooSmall as error:
            failed = error
            self._later(p, delay_s, lambda x, now: x.on_plan_failed(job.request, failed, now))
        else:
            self._later(p, delay_s, lambda x, now: x.on_plan_solved(job.request, placement, now))

    # ── invariants ──────────────────────────────────────────────────────────────────────────────

    def _check_adopted(self, p: LabPeer, plan: SignedPlan) -> None:
        where = f"seed {self.seed}, t {self.t:.1f}, peer {p.number}"
        self.check(plan, p.now(self.t).unix_s)
        if p.last_order is not None:
            assert plan.order >= p.last_order, f"order fell: {where}"
        assert plan.plan.epoch <= highest_epoch_at(p.now(self.t).unix_s), f"epoch: {where}"
        assert p.disk is not None, where
        assert HighWater.decode(p.disk).order >= plan.order, f"not on disk: {where}"
        p.last_order = plan.order
        p.adopted.append((self.t, plan))

    # ── questions ───────────────────────────────────────────────────────────────────────────────

    @property
    def live(self) -> list[LabPeer]:
        return [p for p in self.peers if p.member is not None and not p.paused]

    def members(self) -> list[Member]:
        return [p.member for p in self.live if p.member is not None]

    def converged(self, *, side: int | None = None) -> bool:
        """Everyone alive holds one plan, over exactly the peers that can serve."""
        group = [p for p in self.live if side is None or p.side == side]
        plans = {p.member.plan.hash if p.member and p.member.plan else b"" for p in group}
        if len(plans) != 1 or b"" in plans:
            return False
        plan = group[0].member.plan if group[0].member else None
        assert plan is not None
        able = {p.peer for p in group if p.layers}
        return {a.peer for a in plan.plan.placement.assignments} == able

    def agreed(self, *, without: set[PeerId]) -> bool:
        """Everyone alive but these holds one plan, and it counts on all of them."""
        group = [p for p in self.live if p.peer not in without]
        plan = self.one_plan(without=without)
        if plan is None:
            return False
        held = {a.peer for a in plan.plan.placement.assignments}
        return {p.peer for p in group if p.layers} <= held <= self.live_ids()

    def one_plan(self, *, without: Collection[PeerId] = ()) -> SignedPlan | None:
        """The plan that everyone alive but these holds; None when they differ."""
        held = [p.member.plan for p in self.live if p.member and p.peer not in without]
        first = held[0] if held else None
        same = all(plan is not None and first and plan.hash == first.hash for plan in held)
        return first if same else None

    def live_ids(self) -> set[PeerId]:
        return {p.peer for p in self.live}

    def told(self, kind: type[E], since_s: float = 0.0) -> list[tuple[LabPeer, E]]:
        """Effects of one kind that honest or other machines gave, with whose they are."""
        return [
            (p, effect)
            for p in self.peers
            for t, effect in p.events
            if t >= since_s and isinstance(effect, kind)
        ]

    def planners(self) -> list[LabPeer]:
        return [p for p in self.live if p.member is not None and p.member.is_planner]
