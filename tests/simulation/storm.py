"""One seed, one swarm, everything at once: what faults.md lists, against the invariants I1–I7.

Twelve to sixty production machines with real planning and real validation; up to a quarter of them
hostile and in league. A life goes: boot, the planner dies, storm, partition, merge, calm. Every
invariant is checked all along; a broken one names the seed and how to replay it.

    I1 the order of adopted plans never falls, over restarts too
    I2 no invalid plan is adopted (the attackers know which of theirs are invalid; nobody asks us)
    I3 what one honest peer adopted, every connected honest peer holds or outranks within 60 s
    I4 no plan gives an honest peer more than its memory holds
    I5 without a planner every layer stays routable at every peer
    I6 no honest peer is banned
    I7 no adopted epoch is more than two slots ahead
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from helix_p2p.cluster.announcement import PeerState
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import Cancelled, HelixError, SwarmTooSmall
from helix_p2p.membership import effects as fx
from helix_p2p.membership.member import Member
from helix_p2p.membership.own import OwnState
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.plan import Placement, SignedPlan
from helix_p2p.planning.recreate import greedy_baseline
from helix_p2p.planning.validate import PlanRules, validate
from helix_p2p.routing.route import last_layer_reachable
from helix_p2p.types import LayerRange, PeerId
from tests.simulation.membership_lab import LAYER_BYTES, MODEL, SPEED, SWARM, Lab, LabPeer

CONVERGE_S = 60.0
SETTLED_S = 15.0
"""After a plan its peers load for a few seconds, and their word needs a few more to go round."""
ROUTELESS_S = 5.0
"""A ping and its answer get lost now and then; the probe that clears a suspicion takes a while."""
PLANLESS_S = 30.0
SPARE_BYTES = 200
LOAD_S = (1.0, 4.0)
RULES = PlanRules(MODEL, SWARM)


class Broken(AssertionError):
    """An invariant does not hold."""


def quick_plan(snapshot: Snapshot) -> Placement:
    """A real placement with its certificate, found by the planner's baseline alone."""
    capacities = capacities_of(snapshot)
    bound = upper_bound(capacities)
    layout = greedy_baseline(capacities, bound)
    routing = route_flow(snapshot, capacities, layout)
    if routing.value_mtokens_per_s <= 0:
        raise SwarmTooSmall(missing_bytes=LAYER_BYTES, total_peers=len(snapshot.peers))
    assignments = layout.assignments(capacities)
    value, cut = routing.value_mtokens_per_s, routing.min_cut
    return Placement(assignments, routing.flows, value, max(bound, value), cut, "greedy", 0.0)


@dataclass(frozen=True, slots=True)
class Weather:
    """What one seed brings, drawn from it.

    Attributes:
        peers: All, hostile ones included.
        hostile: In league.
        loss: Share of messages that never arrive.
        storm_s: How long faults keep coming.
        by_hash: Plans refer to announcements, however few there are.
    """

    peers: int
    hostile: int
    loss: float
    storm_s: float = 60.0
    by_hash: bool = False

    @classmethod
    def of(cls, seed: int, most_peers: int = 60) -> "Weather":
        """Half of the seeds have hostile peers; small swarms are more frequent."""
        rng = Random(f"weather {seed}")
        peers = 12 + int((most_peers - 12) * rng.random() ** 3)
        hostile = rng.randint(1, peers // 4) if rng.random() < 0.6 else 0
        loss = rng.choice([0.0, 0.02, 0.05, 0.1])
        return cls(peers, hostile, loss, by_hash=rng.random() < 0.5)


@dataclass
class Seen:
    """What a life showed: durations of what a person waits for, and counts."""

    take_over_s: list[float] = field(default_factory=list)
    merge_s: list[float] = field(default_factory=list)
    adoptions: int = 0
    refused: int = 0
    banned: int = 0
    routes_checked: int = 0


class Storm(Lab):
    """See the module's description.

    Args:
        seed: Of everything.
        weather: What it brings.
    """

    def __init__(self, seed: int, weather: Weather) -> None:
        self._verdicts: dict[bytes, HelixError | None] = {}
        self._placements: dict[Snapshot, Placement | SwarmTooSmall] = {}
        super().__init__(
            seed,
            weather.peers,
            loss=weather.loss,
            skew_s=5.0,
            drift=0.03,
            carried_limit_bytes=0 if weather.by_hash else 32 * 1024,
            check=self._judge,
            plan=quick_plan,
        )
        self.weather = weather
        self.seen = Seen()
        self.invalid: set[bytes] = set()
        self.hostile = set(self.rng.sample([p.peer for p in self.peers], weather.hostile))
        for p in self.peers:
            p.layers = self.rng.randint(3, 6)
        self.mute: set[PeerId] = set()
        self.lazy: set[PeerId] = set()
        self.bridges: set[PeerId] = set()
        self._holds: dict[PeerId, LayerRange] = {}
        self._up_since: dict[PeerId, float] = {}
        self._side_since = 0.0
        self._adopted: list[tuple[float, LabPeer, int, int, SignedPlan]] = []
        self.planless = False
        self._adopted_s = 0.0
        self._routeless: dict[PeerId, float] = {}

    # ── what differs from the calm lab ──────────────────────────────────────────────────────────

    @property
    def where(self) -> str:
        """How a person finds this moment again."""
        return (
            f"seed {self.seed} at {self.t:.2f} s; replay: ./scripts/bench storm --seed {self.seed}"
        )

    def honest(self) -> list[LabPeer]:
        """Live and not hostile."""
        return [p for p in self.live if p.peer not in self.hostile]

    def start(self, p: LabPeer) -> Member:
        self._up_since[p.peer] = self.t
        self._holds.pop(p.peer, None)
        return super().start(p)

    def crash(self, p: LabPeer) -> None:
        self._holds.pop(p.peer, None)
        super().crash(p)

    def leave(self, p: LabPeer) -> None:
        self._holds.pop(p.peer, None)
        super().leave(p)

    def hang(self, p: LabPeer, seconds: float) -> None:
        """SIGSTOP for a while."""
        p.paused = True
        self.at(self.t + seconds, lambda: self._wake(p))

    def _wake(self, p: LabPeer) -> None:
        p.paused = False
        self._up_since[p.peer] = self.t

    def split(self, sides: dict[PeerId, int]) -> None:
        """A partition, or none where all are on one side."""
        for p in self.peers:
            p.side = sides.get(p.peer, 0)
        self._side_since = self.t

    def apart(self, p: LabPeer, other: LabPeer) -> bool:
        return p.side != other.side and not {p.peer, other.peer} & self.bridges

    def act(self, p: LabPeer, effects: tuple[fx.Effect, ...]) -> None:
        if p.peer in self.mute:
            effects = tuple(e for e in effects if not isinstance(e, fx.SendTo | fx.PublishRecord))
        for effect in effects:
            if isinstance(effect, fx.Banned) and p.peer not in self.hostile:
                self.seen.banned += 1
                if effect.peer not in self.hostile:
                    raise Broken(f"I6: {p.number} banned an honest peer; {self.where}")
            self.seen.refused += isinstance(effect, fx.PlanRefused)
        super().act(p, effects)

    def _solve(self, p: LabPeer, job: fx.StartPlanning) -> None:
        if p.peer in self.lazy or self.planless:
            error = Cancelled("it does not plan")
            self._later(p, 1.0, lambda x, now: x.on_plan_failed(job.request, error, now))
        else:
            super()._solve(p, job)

    def _judge(self, signed: SignedPlan, now_unix_s: float) -> None:
        """The production rules; the same for all but for the clock, so asked once a plan.

        Records of one content are as good as each other, so that holds for what it refers to.
        """
        if signed.hash not in self._verdicts:
            try:
                validate(signed, RULES, now_unix_s)
                self._verdicts[signed.hash] = None
            except HelixError as error:
                self._verdicts[signed.hash] = error
        verdict = self._verdicts[signed.hash]
        if verdict is not None:
            raise verdict

    # ── invariants ──────────────────────────────────────────────────────────────────────────────

    def _check_adopted(self, p: LabPeer, plan: SignedPlan) -> None:
        if p.peer in self.hostile:
            p.last_order = plan.order
            return
        self.seen.adoptions += 1
        if p.last_order is not None and plan.order < p.last_order:
            raise Broken(f"I1: {p.number} went back to an older plan; {self.where}")
        if plan.hash in self.invalid:
            raise Broken(f"I2: {p.number} adopted an invalid plan; {self.where}")
        for assignment in plan.plan.placement.assignments:
            needed = len(assignment.layers) * LAYER_BYTES
            owner = self.by_id.get(assignment.peer)
            if owner is None or (
                owner.peer not in self.hostile and needed > owner.layers * LAYER_BYTES
            ):
                raise Broken(f"I4: {assignment.peer} was given too much; {self.where}")
        slot = int(p.now(self.t).unix_s // 30)
        if plan.plan.epoch // 64 > slot + 2:
            raise Broken(f"I7: epoch {plan.plan.epoch} in slot {slot}; {self.where}")
        super()._check_adopted(p, plan)
        self._adopted_s = self.t
        self._adopted.append((self.t, p, p.runs, p.side, plan))
        self._load(p, plan)

    def watch(self) -> None:
        """Check what holds between adoptions; it calls itself twice a second."""
        self._check_converging()
        self._check_routable()
        self.at(self.t + 0.5, self.watch)

    def _check_converging(self) -> None:
        """I3; who crashed, hung or was cut off since it adopted need not have told anyone.

        A plan whose planner has convicted itself is held by those who adopted it before they knew,
        and refused by the others, until the next plan outranks it.
        """
        due = [item for item in self._adopted if self.t - item[0] > CONVERGE_S]
        self._adopted = [item for item in self._adopted if self.t - item[0] <= CONVERGE_S]
        convicted = {peer for p in self.honest() if p.member for peer in p.member.trust.proofs}
        for at_s, source, run, side, plan in due:
            if source.runs != run or source.member is None or self._steady_s(source) < CONVERGE_S:
                continue
            if plan.plan.planner in convicted:
                continue
            for p in self.honest():
                behind = p.last_order is None or p.last_order < plan.order
                if behind and p.side == side and self._steady_s(p) >= self.t - at_s:
                    raise Broken(f"I3: {p.number} is behind for {CONVERGE_S:g} s; {self.where}")

    def _steady_s(self, p: LabPeer) -> float:
        """For how long it has been up, awake and on its side."""
        return self.t - max(self._up_since.get(p.peer, self.t), self._side_since)

    def _check_routable(self) -> None:
        """I5, asked while nobody plans: who served goes on serving, and everyone knows."""
        if not self.planless or self.t - self._adopted_s < SETTLED_S:
            self._routeless.clear()
            return
        alive = {p.peer for p in self.live}
        true = {peer: held for peer, held in self._holds.items() if peer in alive}
        if not _covers(true):
            return
        for p in self.honest():
            if p.member is None or self._steady_s(p) < SETTLED_S:
                continue
            self.seen.routes_checked += 1
            known = {peer: r for peer, r in p.member.serving().items() if peer in true}
            if _covers(known):
                self._routeless.pop(p.peer, None)
            elif self.t - self._routeless.setdefault(p.peer, self.t) > ROUTELESS_S:
                raise Broken(f"I5: {p.number} finds no route without a planner; {self.where}")

    # ── loading what a plan gives ───────────────────────────────────────────────────────────────

    def _load(self, p: LabPeer, plan: SignedPlan) -> None:
        target = plan.plan.placement.range_of(p.peer)
        held = self._holds.get(p.peer)
        if target is not None and target == held:
            self._say(p, PeerState.SERVING, held)
            return
        run = p.runs
        self._say(p, PeerState.LOADING if target else PeerState.STANDBY, held if target else None)

        def loaded() -> None:
            current = p.member.plan if p.member is not None else None
            if p.runs == run and current is not None and current.hash == plan.hash:
                if target is None:
                    self._holds.pop(p.peer, None)
                else:
                    self._holds[p.peer] = target
                    self._say(p, PeerState.SERVING, target)

        self.at(self.t + self.rng.uniform(*LOAD_S), loaded)

    def _say(self, p: LabPeer, state: PeerState, serving: LayerRange | None) -> None:
        if p.member is not None:
            own = OwnState(state, p.layers * LAYER_BYTES + SPARE_BYTES, SPEED, serving)
            self.act(p, p.member.set_own(own, p.now(self.t)))


def _covers(serving: dict[PeerId, LayerRange]) -> bool:
    reachable = last_layer_reachable(serving, MODEL.layers)
    return any(serving[peer].start == 0 for peer in reachable)


# ── a life ──────────────────────────────────────────────────────────────────────────────────────

Unleash = Callable[[Storm], None]


def live(seed: int, weather: Weather, unleash: Unleash | None = None) -> Storm:
    """One whole life.

    Raises:
        Broken: An invariant did not hold.
    """
    lab = Storm(seed, weather)
    lab.start_all()
    _expect(lab, "boots", lambda: _one_plan(lab) and bool(lab.planners()), 90.0)
    lab.watch()
    lab.run(10.0)
    if unleash is not None and weather.hostile:
        unleash(lab)
    _take_over(lab)
    _faults(lab)
    _without_planner(lab)
    _partition(lab)
    lab.run(CONVERGE_S + 5.0)
    _expect(lab, "comes to rest", lambda: _one_plan(lab), CONVERGE_S)
    return lab


def _expect(lab: Storm, what: str, holds: Callable[[], bool], within_s: float) -> float:
    took_s = lab.run_until(holds, within_s)
    if took_s is None:
        raise Broken(f"I3: the swarm never {what} within {within_s:g} s; {lab.where}")
    return took_s


def _one_plan(lab: Storm) -> bool:
    return lab.one_plan(without=lab.hostile) is not None


def _take_over(lab: Storm) -> None:
    """Kill whoever plans; how long until all honest peers follow another's plan without it."""
    planners = lab.planners()
    victim = planners[0] if planners else lab.rng.choice(lab.live)
    began_s = lab.t
    lab.crash(victim)

    def taken_over() -> bool:
        def follows(p: LabPeer) -> bool:
            plan = p.member.plan if p.member else None
            return plan is not None and plan.plan.planner != victim.peer

        return all(follows(p) for p in lab.honest())

    lab.seen.take_over_s.append(_expect(lab, "has another planner", taken_over, 90.0))
    lab.at(began_s + 40.0, lambda: None if victim.member else _restart(lab, victim))


def _restart(lab: Storm, p: LabPeer) -> None:
    if p.member is None:
        lab.start(p)


def _faults(lab: Storm) -> None:
    end_s = lab.t + lab.weather.storm_s
    while lab.t < end_s:
        lab.run(lab.rng.uniform(2.0, 12.0))
        p = lab.rng.choice(lab.peers)
        enough = len(lab.honest()) > 0.6 * len(lab.peers)
        if p.member is None:
            lab.start(p)
        elif p.paused or not enough:
            continue
        else:
            match lab.rng.randrange(4):
                case 0:
                    lab.leave(p)
                case 1:
                    lab.hang(p, lab.rng.uniform(3.0, 40.0))
                case _:
                    lab.crash(p)
    for p in lab.peers:
        _restart(lab, p)
    lab.run(20.0)


def _without_planner(lab: Storm) -> None:
    """Whoever plans is killed, and for a while nobody who steps in brings a plan."""
    lab.planless = True
    for victim in lab.planners()[:1]:
        lab.crash(victim)
    lab.run(PLANLESS_S)
    lab.planless = False
    for p in lab.peers:
        _restart(lab, p)
    lab.run(10.0)


def _partition(lab: Storm) -> None:
    """Two sides for a minute, then one again; how long until all hold one plan."""
    few = set(lab.rng.sample([p.peer for p in lab.peers], max(4, len(lab.peers) * 2 // 5)))
    lab.bridges = set(lab.rng.sample(sorted(lab.hostile), len(lab.hostile) // 2))
    lab.split({p.peer: int(p.peer in few) for p in lab.peers})
    lab.run(lab.rng.uniform(30.0, 60.0))
    lab.split({})
    lab.bridges = set()
    lab.seen.merge_s.append(_expect(lab, "merges", lambda: _one_plan(lab), CONVERGE_S))
