"""Who plans: a lease, and ranks to take over when it lapses.

The planner of the adopted plan holds the lease and renews it with signed beats. When it lapses, the
candidates step in one after another, ranked by H(plan hash ‖ peer), which nobody can choose; the
first to step in says so with a beat of its own, and those behind it wait again. Before the first
plan of a swarm the same ranks decide, a short while after membership has settled.

Two planners at once are harmless (adoption.py orders their plans), so nothing here needs a
majority: each side of a partition goes on.

Always: this machine holds one lease at a time in view, and beats only while it believes the lease
to be its own.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from random import Random

from helix_p2p import codec
from helix_p2p.identity import Signed
from helix_p2p.membership.gossip import MANY
from helix_p2p.membership.messages import Lease
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.planning.plan import SignedPlan
from helix_p2p.types import PeerId

LEASE_KIND = "lease"
LEASE_LIMIT_BYTES = 256
SPREAD = 4.0
"""So many standard deviations of a place in rank are allowed for before it is worked out."""
BEAT_STRETCH = 1.5
"""Among many a beat costs each member a message or two, and a lease still outlives two of them."""
CLAIM_LEASES = 3
"""A candidate that stepped in has so many leases' time to bring a plan."""


class Step(Enum):
    """What a tick decides."""

    STEP_IN = "step in"
    STEP_DOWN = "step down"
    BEAT = "beat"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the election needs to know of the swarm at one tick.

    Attributes:
        candidates: Gives the other members that may plan; asked only when it matters.
        others: How many other members are known.
        heard_s: When any other member was last heard; None for never.
        changed_s: When membership last changed.
        able: Whether this peer may plan now: willing, admitted, clock right, not leaving, and it
            has looked for the swarm before it thinks itself alone.
    """

    candidates: Callable[[], Collection[PeerId]]
    others: int
    heard_s: float | None
    changed_s: float
    able: bool


def rank(peers: Collection[PeerId], plan_hash: bytes) -> list[PeerId]:
    """The order in which candidates step in after the plan with this hash."""
    return sorted(peers, key=lambda peer: _lot(plan_hash, peer))


def _lot(plan_hash: bytes, peer: PeerId) -> bytes:
    """What nobody can choose, and everyone can work out."""
    return codec.sha256(plan_hash + peer.encode())


def open_lease(record: Signed, swarm: str) -> Lease:
    """Verify and read a beat.

    Raises:
        SignatureError: Wrong swarm, kind or signature.
        DecodeError: Not a lease.
    """
    record.verify(kind=LEASE_KIND, swarm=swarm)
    return codec.decode(record.body, Lease, limit_bytes=LEASE_LIMIT_BYTES)


class Election:
    """The lease as this peer sees it.

    Args:
        me: This peer.
        timing: Durations.
        rng: For the jitter of stepping in.
        now_s: Time.
    """

    def __init__(self, me: PeerId, timing: MembershipTiming, rng: Random, now_s: float) -> None:
        self._me = me
        self._timing = timing
        self._rng = rng
        self._started_s = now_s
        self._basis = b""
        self._epoch = 0
        self._planner: PeerId | None = None
        self._holder: PeerId | None = None
        self._renewed_s = now_s
        self._lost_s: float | None = None
        self._numbers: dict[PeerId, int] = {}
        self._claimed_s: dict[PeerId, float] = {}
        self._not_before_s = now_s
        self._number = 0
        self._beat_s: float | None = None
        self._jitter_s = self._draw_jitter_s()
        self.latest_beat: Signed | None = None
        self.latest_number = 0

    @property
    def is_planner(self) -> bool:
        """Whether this peer holds the lease."""
        return self._holder == self._me

    @property
    def holder(self) -> PeerId | None:
        """Who holds the lease, as far as is known."""
        return self._holder

    def lapsed(self, now_s: float) -> bool:
        """Whether nobody holds the lease."""
        return (
            self._holder is None
            or self._lost_s is not None
            or now_s - self._renewed_s > self._timing.lease_s
        )

    def at_ease(self, now_s: float) -> bool:
        """Whether another holds a lease that has not lapsed: a tick would do nothing."""
        held = self._holder is not None and self._holder != self._me and self._lost_s is None
        return held and now_s - self._renewed_s < self._timing.lease_s

    def on_plan(self, plan: SignedPlan, now_s: float) -> None:
        """A plan was adopted: its planner holds the lease."""
        self._basis, self._epoch = plan.hash, int(plan.plan.epoch)
        self._planner = plan.plan.planner
        self._numbers.clear()
        self._claimed_s.clear()
        self._beat_s = None
        self.latest_beat, self.latest_number = None, 0
        self._give(self._planner, now_s)

    def on_beat(
        self,
        record: Signed,
        swarm: str,
        candidates: Callable[[], Collection[PeerId]],
        now_s: float,
        *,
        direct: bool,
    ) -> bool:
        """A beat.

        Args:
            record: The signed lease.
            swarm: Ours.
            candidates: Gives the other members that may plan.
            now_s: Time.
            direct: Whether the signer itself sent it; passed on, it does not revive the dead.

        Returns:
            Whether it renewed or moved the lease.

        Raises:
            SignatureError, DecodeError: It is not a beat of this swarm.
        """
        signer = record.signer
        said = codec.decode(record.body, Lease, limit_bytes=LEASE_LIMIT_BYTES)
        if signer == self._me or said.plan_hash != self._basis:
            return False
        if said.number <= self._numbers.get(signer, -1):
            return False
        if signer == self._holder and self._lost_s is not None and not direct:
            return False
        open_lease(record, swarm)
        self._numbers[signer] = said.number
        if signer != self._planner and not self._heeds_claim(signer, candidates(), now_s):
            return False
        self.latest_beat, self.latest_number = record, said.number
        if signer != self._planner or not self.is_planner:
            self._give(signer, now_s)
        return True

    def on_gone(self, peer: PeerId, now_s: float) -> None:
        """A member left, died or was banned; if it held the lease, that is over."""
        if peer == self._holder and self._lost_s is None:
            self._lost_s = now_s

    def resign(self, now_s: float) -> None:
        """Give the lease back, whatever the reason; the next in rank need not wait for long."""
        if self.is_planner:
            self._holder = None
            self._lost_s = self._renewed_s = now_s

    def on_unsolvable(self, candidates: Collection[PeerId], now_s: float) -> bool:
        """No plan is possible now. Who stepped in out of turn lets the first in rank wait for it.

        Returns:
            Whether this peer has given the lease back.
        """
        if not self.is_planner or self._planner == self._me or self._place(candidates) == 0:
            return False
        self._holder = None
        self._lost_s = None
        self._renewed_s = now_s
        self._not_before_s = now_s + self._timing.lease_s
        return True

    def tick(self, around: Surroundings, now_s: float) -> Step | None:
        """What is due now."""
        isolated = (
            around.others > 0
            and around.heard_s is not None
            and now_s - around.heard_s > self._timing.isolation_s
        )
        if self.is_planner:
            if isolated or not around.able:
                self.resign(now_s)
                return Step.STEP_DOWN
            stretch = BEAT_STRETCH if around.others > MANY else 1.0
            if self._beat_s is None or now_s - self._beat_s >= stretch * self._timing.beat_s:
                return Step.BEAT
        elif around.able and not isolated and self._is_due(around, now_s):
            self._give(self._me, now_s)
            self._beat_s = None
            return Step.STEP_IN
        return None

    def beat(self, unix_s: float, now_s: float) -> Lease:
        """The next beat, to be signed and sent; numbers rise over a restart too."""
        self._number = max(self._number + 1, int(unix_s))
        self._beat_s = self._renewed_s = now_s
        return Lease(self._epoch, self._basis, self._number)

    def _is_due(self, around: Surroundings, now_s: float) -> bool:
        """Whether the lease is free and the turn is ours."""
        timing = self._timing
        step_s, jitter_s = timing.rank_step_s, self._jitter_s
        if not self._basis and self._holder is None:
            settled_s = min(
                around.changed_s + timing.settle_s, self._started_s + timing.settle_most_s
            )
            start_s = max(settled_s, self._not_before_s)
            step_s, jitter_s = timing.first_rank_step_s, 0.0
        elif self._lost_s is not None:
            start_s = self._lost_s + timing.planner_lost_s
        else:
            start_s = self._renewed_s + timing.lease_s
        if now_s < start_s or self._surely_later(around.others, (now_s - start_s) / step_s):
            return False
        place = self._place([peer for peer in around.candidates() if peer != self._holder])
        return now_s >= start_s + step_s * place + jitter_s

    def _surely_later(self, others: int, steps: float) -> bool:
        """Whether so many others leave no doubt that more than these steps come before us.

        In a swarm of thousands a look at all candidates costs milliseconds, and all but a few would
        look in vain. Lots are even: of n peers, n times our lot go before us, give or take. Who
        errs here steps in late; the next in rank does it meanwhile.
        """
        lot = int.from_bytes(_lot(self._basis, self._me)[:4]) / 2**32
        expected = lot * others
        return expected - SPREAD * math.sqrt(expected) > steps

    def _place(self, others: Collection[PeerId]) -> int:
        ours = _lot(self._basis, self._me)
        return sum(_lot(self._basis, peer) < ours for peer in {*others} - {self._me})

    def _heeds_claim(self, signer: PeerId, candidates: Collection[PeerId], now_s: float) -> bool:
        """Whether the beat of a peer that did not make the plan moves or renews the lease.

        It does when the lease is free, or held by one that ranks behind it, and for no longer than
        a planner may need: who claims and never plans does not block the swarm.
        """
        if signer not in candidates or self._planner == self._holder == self._me:
            return False
        if not self.lapsed(now_s) and signer != self._holder:
            if self._holder is None or self._holder == self._planner:
                return False
            order = rank({*candidates, self._holder, self._me}, self._basis)
            if order.index(signer) > order.index(self._holder):
                return False
        first_s = self._claimed_s.setdefault(signer, now_s)
        return now_s - first_s <= CLAIM_LEASES * self._timing.lease_s

    def _give(self, holder: PeerId, now_s: float) -> None:
        self._holder = holder
        self._lost_s = None
        self._renewed_s = now_s
        self._jitter_s = self._draw_jitter_s()

    def _draw_jitter_s(self) -> float:
        return self._rng.uniform(0.0, self._timing.jitter_s)
