"""What a hostile member can send, with its own key and with whatever it overheard."""

from collections.abc import Callable
from dataclasses import replace

from helix_p2p import codec
from helix_p2p.cluster.announcement import PeerState
from helix_p2p.identity import Signed
from helix_p2p.membership import messages as m
from helix_p2p.membership.adoption import highest_epoch_at, next_epoch
from helix_p2p.membership.effects import MemberMessage
from helix_p2p.membership.election import LEASE_KIND
from helix_p2p.membership.member import Member
from helix_p2p.planning.plan import PLAN_KIND, Plan
from helix_p2p.planning.signed import sign_plan
from helix_p2p.types import Epoch
from tests.simulation.membership_lab import MODEL, START_UNIX_S, SWARM, Lab, LabPeer

Blows = list[tuple[LabPeer, MemberMessage]]
Attack = Callable[[Lab, LabPeer, Member, LabPeer], Blows]


def _plan(lab: Lab, evil: LabPeer, member: Member, epoch: int, solver: str, salt: float) -> Signed:
    assert member.plan is not None, "attacks begin when there is a plan"
    live = member.plan.plan
    body = Plan(
        epoch=Epoch(epoch),
        planner=evil.peer,
        previous_hash=b"",
        manifest_hash=MODEL.manifest_hash,
        issued_unix_s=START_UNIX_S + lab.t + salt,
        announcements=live.announcements,
        placement=replace(live.placement, solver=solver),
    )
    return sign_plan(body, evil.identity, SWARM)


def _epoch(lab: Lab, member: Member) -> int:
    epoch = next_epoch(member.adoption.highest_epoch, START_UNIX_S + lab.t)
    return int(epoch or 0)


def invalid_plan(lab: Lab, evil: LabPeer, member: Member, victim: LabPeer) -> Blows:
    """A plan of a higher epoch that breaks a rule."""
    record = _plan(lab, evil, member, _epoch(lab, member), "evil", 0.0)
    return [(victim, m.PushPlan(record))]


def inflated_epoch(lab: Lab, evil: LabPeer, member: Member, victim: LabPeer) -> Blows:
    """A plan from far in the future, so that nobody could ever outrank it."""
    far = highest_epoch_at(START_UNIX_S + lab.t) + 64 * 20
    return [(victim, m.PushPlan(_plan(lab, evil, member, far, "good", 0.0)))]


def in_another_name(_lab: Lab, evil: LabPeer, member: Member, victim: LabPeer) -> Blows:
    """Another planner's plan, changed and signed with the wrong key; and a proof made of it."""
    if member.plan is None:
        return []
    real = member.plan.record
    forged = replace(real, public_key=evil.identity.public_key)
    resigned = evil.identity.sign(PLAN_KIND, SWARM, real.body)
    return [
        (victim, m.PushPlan(forged)),
        (victim, m.PushPlan(resigned)),
        (victim, m.PushProof(real, resigned)),
        (victim, m.PushProof(resigned, forged)),
    ]


def false_reports(lab: Lab, evil: LabPeer, _member: Member, victim: LabPeer) -> Blows:
    """Everyone is told that a healthy peer is dead, or has left."""
    others = [p for p in lab.live if p is not victim and p is not evil]
    dead, left = m.PeerGone(victim.peer, leaving=False), m.PeerGone(victim.peer, leaving=True)
    return [(p, message) for p in others for message in (dead, left)]


def replays(lab: Lab, _evil: LabPeer, _member: Member, victim: LabPeer) -> Blows:
    """Old announcements and old plans, again."""
    old = tuple(lab.overheard[:100])
    plans = [plan.record for p in lab.peers for _, plan in p.adopted[:2]]
    return [(victim, m.MembersReply(old)), *((victim, m.PushPlan(plan)) for plan in plans)]


def empty_promises(lab: Lab, evil: LabPeer, member: Member, victim: LabPeer) -> Blows:
    """Mentions of plans that do not exist, and claims to the lease without ever planning."""
    fake = lab.rng.randbytes(32)
    epoch = _epoch(lab, member)
    mention = m.Ping(epoch, fake, None, 1, START_UNIX_S + lab.t + 500)
    basis = member.plan
    lease = m.Lease(
        int(basis.plan.epoch) if basis else 0, basis.hash if basis else b"", int(lab.t * 100)
    )
    claim = evil.identity.sign(LEASE_KIND, SWARM, codec.encode(lease))
    return [(victim, mention), (victim, m.Beat(claim)), (victim, m.Beat(replace(claim, body=b"")))]


def noise(lab: Lab, evil: LabPeer, member: Member, victim: LabPeer) -> Blows:
    """Announcements with wild numbers, garbage under good signatures."""
    said = member.announcements()[evil.peer]
    wild = replace(said, sequence=said.sequence + 10**6, state=PeerState.LEFT)
    garbage = evil.identity.sign("announcement", SWARM, lab.rng.randbytes(40))
    plan = evil.identity.sign(PLAN_KIND, SWARM, lab.rng.randbytes(40))
    forged = replace(garbage, public_key=victim.identity.public_key)
    wild_record = wild.signed(evil.identity, "open-elsewhere")
    return [
        (victim, m.MembersReply((garbage, forged, wild_record))),
        (victim, m.PlanReply(plan)),
        (victim, m.PushProof(plan, garbage)),
        (victim, m.PushRevocations(garbage)),
    ]


def equivocation(lab: Lab, evil: LabPeer, member: Member, _victim: LabPeer) -> Blows:
    """Two good plans of one epoch, one for each half of the swarm."""
    epoch = _epoch(lab, member)
    plans = [_plan(lab, evil, member, epoch, "good", salt) for salt in (0.0, 1.0)]
    others = [p for p in lab.live if p is not evil]
    return [(p, m.PushPlan(plans[index % 2])) for index, p in enumerate(others)]


PERSISTENT: tuple[Attack, ...] = (
    invalid_plan,
    inflated_epoch,
    in_another_name,
    false_reports,
    replays,
    empty_promises,
    noise,
)
"""Attacks that prove nothing against their author, who can go on for ever."""


def unleash(
    lab: Lab, evil: LabPeer, attacks: tuple[Attack, ...], every_s: float, until_s: float
) -> None:
    """Let a peer attack someone every so often; between attacks it behaves."""

    def strike() -> None:
        member = evil.member
        if lab.t > until_s or member is None:
            return
        victims = [p for p in lab.live if p is not evil]
        attack = lab.rng.choice(attacks)
        for to, message in attack(lab, evil, member, lab.rng.choice(victims)):
            lab.send(evil, to.peer, message)
        lab.at(lab.t + every_s, strike)

    lab.at(lab.t + lab.rng.uniform(0, every_s), strike)
