"""Ten times the speed, or ten times the line: what liars get of a plan within three slots.

Production members, real placements and the real validation; what witnesses measure is the truth
with a third of noise, and a fifth of all lie about others as well.
"""

from dataclasses import dataclass, field

import pytest

from helix_p2p.cluster.announcement import LinkMeasurement, PaceMeasurement, PeerState
from helix_p2p.cluster.belief import subjects_of
from helix_p2p.membership.own import OwnState
from helix_p2p.planning.plan import SignedPlan
from helix_p2p.planning.validate import PlanRules, validate
from helix_p2p.types import LayerRange, PeerId
from tests.simulation.membership_lab import LAYER_BYTES, MODEL, SPEED, SWARM, Lab, LabPeer
from tests.simulation.storm import quick_plan

RULES = PlanRules(MODEL, SWARM)
LIE = 10.0
WITHIN_S = 3 * 30.0
LINE_BYTES_PER_S = 2e4
MEASURE_S = 20.0


def check(signed: SignedPlan, now_unix_s: float) -> None:
    validate(signed, RULES, now_unix_s)


@dataclass
class Truth:
    """What is true of everyone, and who does not say it."""

    boasts: set[PeerId] = field(default_factory=set)
    slanders: set[PeerId] = field(default_factory=set)


class Liars(Lab):
    """A swarm whose members measure each other every 20 s, as `node.pacing` does."""

    def __init__(self, seed: int, peers: int) -> None:
        super().__init__(seed, peers, check=check, plan=quick_plan, layers=4)
        self.truth = Truth()
        self.held: dict[PeerId, LayerRange | None] = {}

    def say(self, p: LabPeer) -> None:
        """What it says of itself and of those it is a witness for."""
        if p.member is None:
            return
        told = p.member.announcements()
        subjects = subjects_of(p.peer, [peer for peer, word in told.items() if word.speed])
        boasts = p.peer in self.truth.boasts
        line = LINE_BYTES_PER_S * (LIE if boasts else 1.0)
        own = OwnState(
            PeerState.SERVING,
            p.layers * LAYER_BYTES + 200,
            SPEED.slowed(1 / LIE) if boasts else SPEED,
            LayerRange(0, 1),
            links=tuple(self.line(p, peer) for peer in subjects),
            uplink_bytes_per_s=line,
            downlink_bytes_per_s=line,
            paces=tuple(self.pace(p, peer) for peer in subjects),
        )
        self.act(p, p.member.set_own(own, p.now(self.t)))

    def pace(self, p: LabPeer, of: PeerId) -> PaceMeasurement:
        if p.peer in self.truth.slanders:
            return PaceMeasurement(of, 1.0 if of in self.truth.boasts else LIE)
        noise = self.rng.uniform(0.8, 1.5)
        return PaceMeasurement(of, noise * (LIE if of in self.truth.boasts else 1.0))

    def line(self, p: LabPeer, of: PeerId) -> LinkMeasurement:
        width = LINE_BYTES_PER_S * self.rng.uniform(0.7, 1.0)
        if p.peer in self.truth.slanders:
            width = width * LIE if of in self.truth.boasts else 1.0
        return LinkMeasurement(of, 0.02, None, width)

    def measure(self) -> None:
        for p in self.live:
            self.say(p)
        self.at(self.t + MEASURE_S, self.measure)

    def plan_here(self) -> SignedPlan:
        plan = self.one_plan()
        assert plan is not None
        return plan

    def share(self, of: set[PeerId]) -> float:
        """How much of the plan's flow goes through these, against an honest peer's mean."""
        through: dict[PeerId, int] = {}
        placement = self.plan_here().plan.placement
        for edge in placement.flows:
            if edge.target is not None:
                layers = len(placement.range_of(edge.target) or ())
                through[edge.target] = through.get(edge.target, 0) + edge.mtokens_per_s * layers
        theirs = [through.get(peer, 0) for peer in of]
        others = [amount for peer, amount in through.items() if peer not in of]
        return (sum(theirs) / len(theirs)) / (sum(others) / len(others))


def settled(seed: int, peers: int) -> Liars:
    lab = Liars(seed, peers)
    lab.start_all()
    lab.at(1.0, lab.measure)
    assert lab.run_until(lambda: lab.one_plan() is not None, 60.0) is not None
    lab.run(60.0)
    return lab


@pytest.mark.parametrize("slanderers", [0, 4])
def test_who_claims_ten_times_as_much_is_cut_down_within_three_slots(slanderers: int) -> None:
    lab = settled(3, 20)
    liar = lab.peers[5]
    lab.truth.boasts = {liar.peer}
    lab.truth.slanders = {p.peer for p in lab.peers[10 : 10 + slanderers]}
    lab.run(WITHIN_S)
    assert 0 < lab.share(lab.truth.boasts) < 2.0
    snapshot = next(m for m in lab.members() if m.plan is not None).snapshot()
    assert snapshot is not None
    believed = next(p for p in snapshot.peers if p.peer == liar.peer)
    assert believed.speed is not None
    assert believed.speed.decode_s(1) > 0.6 * SPEED.decode_s(1)
    assert believed.uplink_bytes_per_s is not None
    assert believed.uplink_bytes_per_s < 1.5 * LINE_BYTES_PER_S


def test_a_fifth_of_slanderers_costs_no_honest_peer_its_place() -> None:
    lab = settled(4, 20)
    before = lab.plan_here().plan.placement
    lab.truth.slanders = {p.peer for p in lab.peers[:4]}
    lab.run(WITHIN_S)
    for member in lab.members():
        snapshot = member.snapshot()
        assert snapshot is not None
        for profile in snapshot.peers:
            assert profile.speed == SPEED
            assert profile.uplink_bytes_per_s == LINE_BYTES_PER_S
    after = lab.plan_here().plan.placement
    # What they say of the ways to themselves is believed, and costs nobody else anything.
    assert after.value_mtokens_per_s >= 0.8 * before.value_mtokens_per_s


@pytest.mark.slow
def test_the_lie_would_pay_if_nobody_measured() -> None:
    """Or the tests above would show nothing."""
    lab = settled(3, 20)
    lab.truth.boasts = {lab.peers[5].peer}
    lab.pace = lambda p, of: PaceMeasurement(of, 1.0)  # type: ignore[method-assign]
    lab.line = lambda p, of: LinkMeasurement(of, 0.02)  # type: ignore[method-assign]
    lab.run(WITHIN_S)
    assert lab.share(lab.truth.boasts) > 2.0
