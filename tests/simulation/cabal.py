"""Hostile peers in league: up to a quarter of the swarm, with one plan of attack.

They run real machines, hold real keys, know all that any of them overheard, choose the same victims
at the same moment, bridge partitions, and never get tired. What they send is known to them as valid
or not; what is invalid must be adopted by nobody.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count

from helix_p2p import codec
from helix_p2p.cluster.announcement import Announcement, LinkMeasurement, PeerState
from helix_p2p.cluster.snapshot import snapshot_of
from helix_p2p.errors import SwarmTooSmall
from helix_p2p.identity import Signed
from helix_p2p.membership import messages as m
from helix_p2p.membership.adoption import highest_epoch_at, next_epoch
from helix_p2p.membership.election import LEASE_KIND
from helix_p2p.membership.member import Member
from helix_p2p.planning.packing import encode_plan
from helix_p2p.planning.plan import PLAN_KIND, Assignment, Placement, Plan, Reference
from helix_p2p.planning.signed import sign_plan
from helix_p2p.types import Epoch, LayerRange, PeerId
from tests.simulation.membership_lab import LAYER_BYTES, MODEL, SPEED, START_UNIX_S, SWARM, LabPeer
from tests.simulation.storm import Storm, quick_plan

STRIKE_S = 1.0
Mutation = Callable[["Cabal", LabPeer, Plan], Plan]


@dataclass
class Cabal:
    """All hostile peers of one storm, and what they know together."""

    lab: Storm

    def __post_init__(self) -> None:
        self.rng = self.lab.rng
        self._salt = count(1)
        self._plans: list[Signed] = []
        self.attacks: tuple[Callable[[], None], ...] = (
            self.invalid_plans,
            self.inflated_epochs,
            self.hollow_plans,
            self.two_faces,
            self.leave_out,
            self.accuse_one,
            self.replay,
            self.promise_much,
            self.claim_the_lease,
            self.frame_the_planner,
            self.lie_about_capacity,
            self.fall_silent,
            self.lie_about_links_and_layers,
        )

    @property
    def members(self) -> list[tuple[LabPeer, Member]]:
        """Those that are up."""
        peers = (p for p in self.lab.live if p.peer in self.lab.hostile)
        return [(p, p.member) for p in peers if p.member is not None]

    def begin(self) -> None:
        """Strike every so often, for ever."""
        if self.members and self.lab.honest():
            self.rng.choice(self.attacks)()
        self.lab.at(self.lab.t + self.rng.uniform(0.2, 2 * STRIKE_S), self.begin)

    # ── plans ───────────────────────────────────────────────────────────────────────────────────

    def invalid_plans(self) -> None:
        """A plan of a higher epoch that breaks one rule, from everyone to everyone."""
        for evil, member in self.members:
            base = self._good(evil, member)
            if base is None:
                return
            mutated = self.rng.choice(MUTATIONS)(self, evil, base)
            if mutated != base:
                self._spread(self._sign(evil, mutated, invalid=True))

    def inflated_epochs(self) -> None:
        """A good plan from the future, and one at the very edge of what is allowed."""
        evil, member = self._one()
        base = self._good(evil, member)
        if base is None:
            return
        edge = highest_epoch_at(START_UNIX_S + self.lab.t)
        far = replace(base, epoch=Epoch(edge + 64 * self.rng.randint(4, 10**6)))
        self._spread(self._sign(evil, far, invalid=True))
        self._spread(self._sign(evil, replace(base, epoch=Epoch(edge))))

    def hollow_plans(self) -> None:
        """Plans of high epochs that rest on words which nobody ever said."""
        for evil, member in self.members:
            base = self._good(evil, member)
            if base is None:
                return
            made_up = tuple(
                Reference(p.peer, self.rng.randbytes(24)) for p in self.lab.peers if p is not evil
            )
            edge = highest_epoch_at(START_UNIX_S + self.lab.t)
            own = (member.record,)
            hollow = replace(base, announcements=own, references=made_up, epoch=Epoch(edge))
            self._spread(self._sign(evil, hollow, invalid=True))

    def two_faces(self) -> None:
        """Two good plans of one epoch, one for each half; rarely, since it costs a member."""
        if self.rng.random() < 0.8:
            return
        evil, member = self._one()
        base = self._good(evil, member)
        if base is None:
            return
        other = replace(base, issued_unix_s=base.issued_unix_s - 1.0)
        halves = (self._sign(evil, base), self._sign(evil, other))
        for index, p in enumerate(self.lab.honest()):
            self.lab.send(evil, p.peer, m.PushPlan(halves[index % 2]))

    def leave_out(self) -> None:
        """A valid plan over the cabal and as few honest peers as it needs."""
        evil, member = self._one()
        friends = {p.peer for p, _ in self.members}
        honest = [p.peer for p in self.lab.honest()]
        chosen = friends | set(self.rng.sample(honest, min(len(honest), 6)))
        base = self._good(evil, member, chosen)
        if base is not None:
            self._spread(self._sign(evil, base))

    def _good(
        self, evil: LabPeer, member: Member, chosen: Iterable[PeerId] | None = None
    ) -> Plan | None:
        """A valid plan of the next epoch."""
        records = {entry.peer: entry.record for entry in member.view}
        records[evil.peer] = member.record
        wanted = records.keys() if chosen is None else records.keys() & {*chosen, evil.peer}
        said = member.announcements()
        snapshot = snapshot_of(MODEL, [(peer, said[peer]) for peer in sorted(wanted)])
        unix_s = evil.now(self.lab.t).unix_s
        epoch = next_epoch(member.adoption.highest_epoch, unix_s)
        try:
            placement = quick_plan(snapshot)
        except SwarmTooSmall:
            return None
        if epoch is None:
            return None
        return Plan(
            epoch=epoch,
            planner=evil.peer,
            previous_hash=member.plan.hash if member.plan else b"",
            manifest_hash=MODEL.manifest_hash,
            issued_unix_s=unix_s + 1e-6 * next(self._salt),
            announcements=tuple(records[peer] for peer in sorted(wanted)),
            placement=placement,
        )

    def _sign(self, evil: LabPeer, plan: Plan, *, invalid: bool = False) -> Signed:
        record = sign_plan(plan, evil.identity, SWARM)
        if invalid:
            self.lab.invalid.add(codec.sha256(record.body))
        self._plans.append(record)
        return record

    def _spread(self, record: Signed) -> None:
        """From every member of the cabal to some honest peers, as push and as reply."""
        for evil, _ in self.members:
            for p in self._some(4):
                self.lab.send(evil, p.peer, m.PushPlan(record))
                self.lab.send(evil, p.peer, m.PlanReply(record))

    # ── membership ──────────────────────────────────────────────────────────────────────────────

    def accuse_one(self) -> None:
        """The whole cabal tells everyone, again and again, that one honest peer is dead."""
        victim = self.rng.choice(self.lab.honest())
        planners = [p for p in self.lab.planners() if p.peer not in self.lab.hostile]
        if planners and self.rng.random() < 0.5:
            victim = planners[0]

        def accuse() -> None:
            for evil, _ in self.members:
                for p in self.lab.honest():
                    if p is not victim:
                        self.lab.send(evil, p.peer, m.PeerGone(victim.peer, leaving=False))
                        self.lab.send(evil, p.peer, m.PeerGone(victim.peer, leaving=True))

        for step in range(15):
            self.lab.at(self.lab.t + 2.0 * step, accuse)

    def replay(self) -> None:
        """Everything that was ever overheard, in any order, from every member."""
        heard = self.lab.overheard
        for evil, _ in self.members:
            records = tuple(self.rng.choices(heard, k=20)) if heard else ()
            for p in self._some(3):
                self.lab.send(evil, p.peer, m.MembersReply(records))
                if self._plans:
                    self.lab.send(evil, p.peer, m.PushPlan(self.rng.choice(self._plans)))
                old = [plan for q in self.lab.peers for _, plan in q.adopted[-20:]]
                if old:
                    self.lab.send(evil, p.peer, m.PushPlan(self.rng.choice(old).record))

    def promise_much(self) -> None:
        """Mentions of plans that do not exist, as many as it takes to keep everyone asking."""

        def promise() -> None:
            for evil, member in self.members:
                epoch = highest_epoch_at(START_UNIX_S + self.lab.t - 6)
                for p in self.lab.honest():
                    for _ in range(4):
                        ping = m.Ping(epoch, self.rng.randbytes(32), member.record, 1)
                        self.lab.send(evil, p.peer, ping)

        for step in range(10):
            self.lab.at(self.lab.t + 1.0 * step, promise)

    def claim_the_lease(self) -> None:
        """Beats for a lease that is not theirs, each with the highest number there is."""
        for evil, member in self.members:
            plan = member.plan
            said = m.Lease(
                int(plan.plan.epoch) if plan else 0,
                plan.hash if plan else b"",
                2**62 + int(self.lab.t * 100),
            )
            claim = evil.identity.sign(LEASE_KIND, SWARM, codec.encode(said))
            for p in self.lab.honest():
                self.lab.send(evil, p.peer, m.Beat(claim))
                self.lab.send(evil, p.peer, m.Beat(replace(claim, body=claim.body[:-1])))

    def frame_the_planner(self) -> None:
        """Proofs against honest planners, made of their own plans and of forgeries."""
        honest = [plan for p in self.lab.honest() for _, plan in p.adopted[-4:]]
        if not honest:
            return
        evil, _ = self._one()
        real = self.rng.choice(honest)
        if real.plan.planner == evil.peer:  # signed by its own planner, the altered plan is valid
            return
        altered = replace(real.plan, issued_unix_s=real.plan.issued_unix_s + 1)
        body = encode_plan(altered)
        forged = replace(real.record, body=body)
        resigned = evil.identity.sign(PLAN_KIND, SWARM, body)
        self.lab.invalid.update({codec.sha256(body)} - {real.hash})
        proofs = [
            m.PushProof(real.record, forged),
            m.PushProof(real.record, resigned),
            m.PushProof(resigned, real.record),
            m.PushProof(real.record, self.rng.choice(honest).record),
        ]
        for evil, _ in self.members:
            for p in self._some(3):
                self.lab.send(evil, p.peer, self.rng.choice(proofs))
                self.lab.send(evil, p.peer, m.PushPlan(self.rng.choice([forged, resigned])))

    def lie_about_capacity(self) -> None:
        """Ten times the memory, a thousand times the speed, and sizes too large to hold."""
        for _, member in self.members:
            said = member.announcements()[member.peer_id]
            wild = replace(
                said,
                sequence=said.sequence + self.rng.randint(1, 3),
                issued_unix_s=said.issued_unix_s + self.rng.choice([0.0, -5_000.0, 59.0, 1e300]),
                memory_bytes=self.rng.choice([60 * LAYER_BYTES, 2**62, 0]),
                speed=self.rng.choice([SPEED, replace(SPEED, decode=((1, 1e-9), (8, 1e-9)))]),
            )
            self._announce(member, wild)

    def lie_about_links_and_layers(self) -> None:
        """Layers beyond the last, links of no width, states at will; two words of one order."""
        for _, member in self.members:
            said = member.announcements()[member.peer_id]
            others = [p.peer for p in self._some(8)]
            links = tuple(LinkMeasurement(p, self.rng.choice([0.0, 1e6]), 1.0) for p in others)
            for _ in range(2):
                wild = replace(
                    said,
                    sequence=said.sequence + 1,
                    state=self.rng.choice([PeerState.SERVING, PeerState.LOADING]),
                    serving=self.rng.choice([LayerRange(0, 10**6), MODEL.all_layers]),
                    links=links,
                    epoch=2**60,
                )
                self._announce(member, wild)

    def fall_silent(self) -> None:
        """Some hear and say nothing for a while; one that plans may just stop planning."""
        evil, _ = self._one()
        kind = self.rng.choice([self.lab.mute, self.lab.lazy])
        kind.add(evil.peer)
        self.lab.at(self.lab.t + self.rng.uniform(5.0, 60.0), lambda: kind.discard(evil.peer))

    def _announce(self, member: Member, said: Announcement) -> None:
        evil = self.lab.by_id[member.peer_id]
        record = said.signed(evil.identity, SWARM)
        for p in self._some(4):
            self.lab.send(evil, p.peer, m.MembersReply((record,)))

    def _one(self) -> tuple[LabPeer, Member]:
        return self.rng.choice(self.members)

    def _some(self, most: int) -> list[LabPeer]:
        honest = self.lab.honest()
        return self.rng.sample(honest, min(most, len(honest)))


# ── one rule broken each ────────────────────────────────────────────────────────────────────────


def _placed(plan: Plan, **changes: object) -> Plan:
    return replace(plan, placement=replace(plan.placement, **changes))  # type: ignore[arg-type]


def _too_much_memory(cabal: Cabal, _evil: LabPeer, plan: Plan) -> Plan:
    """An honest peer is to hold every layer."""
    honest = {p.peer for p in cabal.lab.honest()}
    held = tuple(
        Assignment(a.peer, MODEL.all_layers) if a.peer in honest else a
        for a in plan.placement.assignments
    )
    return _placed(plan, assignments=held)


def _more_value(_cabal: Cabal, _evil: LabPeer, plan: Plan) -> Plan:
    return _placed(plan, value_mtokens_per_s=plan.placement.value_mtokens_per_s * 2)


def _lower_bound(_cabal: Cabal, _evil: LabPeer, plan: Plan) -> Plan:
    return _placed(plan, bound_mtokens_per_s=plan.placement.value_mtokens_per_s // 2)


def _lost_flow(_cabal: Cabal, _evil: LabPeer, plan: Plan) -> Plan:
    return _placed(plan, flows=plan.placement.flows[1:])


def _hole(_cabal: Cabal, _evil: LabPeer, plan: Plan) -> Plan:
    held = tuple(a for a in plan.placement.assignments if a.layers.start > 0)
    return _placed(plan, assignments=held)


def _too_old(_cabal: Cabal, _evil: LabPeer, plan: Plan) -> Plan:
    return replace(plan, issued_unix_s=plan.issued_unix_s + 3600)


def _in_another_name(cabal: Cabal, evil: LabPeer, plan: Plan) -> Plan:
    others = [p.peer for p in cabal.lab.honest() if p.peer != evil.peer]
    return replace(plan, planner=cabal.rng.choice(others))


def _without_the_planner(_cabal: Cabal, evil: LabPeer, plan: Plan) -> Plan:
    return replace(
        plan, announcements=tuple(r for r in plan.announcements if r.signer != evil.peer)
    )


def _another_model(_cabal: Cabal, _evil: LabPeer, plan: Plan) -> Plan:
    return replace(plan, manifest_hash="cd" * 32)


def _forged_word(cabal: Cabal, _evil: LabPeer, plan: Plan) -> Plan:
    """An honest peer's announcement with another body under its old signature."""
    honest = {p.peer for p in cabal.lab.honest()}
    records = tuple(
        replace(r, body=r.body[:-1] + bytes([r.body[-1] ^ 1])) if r.signer in honest else r
        for r in plan.announcements
    )
    return replace(plan, announcements=records)


def _poor(_cabal: Cabal, _evil: LabPeer, plan: Plan) -> Plan:
    """A tenth of what the placement carries, consistently."""
    flows = tuple(replace(f, mtokens_per_s=f.mtokens_per_s // 10) for f in plan.placement.flows)
    value = plan.placement.value_mtokens_per_s // 10
    return _placed(plan, flows=flows, value_mtokens_per_s=value)


MUTATIONS: tuple[Mutation, ...] = (
    _too_much_memory,
    _more_value,
    _lower_bound,
    _lost_flow,
    _hole,
    _too_old,
    _in_another_name,
    _without_the_planner,
    _another_model,
    _forged_word,
    _poor,
)


def unleash(lab: Storm) -> None:
    """Let the hostile peers of a storm begin."""
    Cabal(lab).begin()


__all__ = ["MUTATIONS", "Cabal", "Placement", "unleash"]
