"""Which plan holds here.

Two planners at once are harmless because every peer orders plans alike and adopts only what is
higher and valid (docs/adr/0004). This is that rule as a machine, without clock or disk.

Always: the order of what is adopted never falls, not even over a restart: a plan is adopted only
after its order is on disk as the high-water mark. A plan that fails validation is never adopted.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from helix_p2p import codec
from helix_p2p.errors import PlanRejected, ProtocolError, SignatureError
from helix_p2p.identity import Signed
from helix_p2p.membership.first_plans import FirstPlans
from helix_p2p.membership.messages import PushProof
from helix_p2p.membership.timing import MembershipTiming, Now
from helix_p2p.planning.plan import Plan, Reference, SignedPlan
from helix_p2p.planning.signed import hash_of_plan, open_plan
from helix_p2p.types import EPOCHS_PER_SLOT, SLOT_S, SLOTS_AHEAD, Epoch, PeerId

_K = TypeVar("_K")
_V = TypeVar("_V")

PlanOrder = tuple[int, bytes, bytes]
"""`SignedPlan.order`: the swarm's total order of plans."""

Validator = Callable[[SignedPlan, float], None]
"""`validate(plan, now_unix_s)` with the rules bound; raises `PlanRejected`."""

REMEMBERED = 256
"""Hashes of plans that are remembered; a slot has room for 64 epochs."""
HIGH_WATER_LIMIT_BYTES = 1024


Gather = Callable[[Sequence[Reference]], dict[bytes, Signed]]
"""Gives what is at hand of the announcements that a plan refers to, by content."""


def _nothing_at_hand(_references: Sequence[Reference]) -> dict[bytes, Signed]:
    return {}


@dataclass(frozen=True, slots=True)
class HighWater:
    """The order of the highest plan ever adopted; what must survive a restart."""

    epoch: int
    tie: bytes
    hash: bytes

    @property
    def order(self) -> PlanOrder:
        """Comparable with `SignedPlan.order`."""
        return (self.epoch, self.tie, self.hash)

    def encode(self) -> bytes:
        """For the disk."""
        return codec.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "HighWater":
        """From the disk.

        Raises:
            DecodeError: The bytes are not a high-water mark.
        """
        return codec.decode(data, cls, limit_bytes=HIGH_WATER_LIMIT_BYTES)


class Offer(Enum):
    """What became of an offered plan."""

    KNOWN = "known"
    LOWER = "lower"
    INCOMPLETE = "incomplete"
    PERSIST = "persist"


def slot_of(unix_s: float) -> int:
    """The epoch slot of a wall-clock time."""
    return max(0, int(unix_s // SLOT_S))


def highest_epoch_at(unix_s: float) -> int:
    """Epochs above this are refused: nobody can inflate them."""
    return EPOCHS_PER_SLOT * (slot_of(unix_s) + SLOTS_AHEAD + 1) - 1


def next_epoch(highest_seen: int, unix_s: float) -> Epoch | None:
    """The epoch of a plan made now; None while the swarm is out of epochs for the moment."""
    epoch = max(highest_seen + 1, EPOCHS_PER_SLOT * slot_of(unix_s))
    return Epoch(epoch) if epoch <= highest_epoch_at(unix_s) else None


def equivocation(first: Signed, second: Signed, swarm: str) -> PeerId | None:
    """Who is convicted by two plans: the signer of both, if they differ and share an epoch.

    Raises:
        SignatureError: A signature does not hold.
        PlanRejected: One of them is not signed by its planner.
        DecodeError: One of them is not a plan.
    """
    if first.public_key != second.public_key or first.body == second.body:
        return None
    one, two = open_plan(first, swarm), open_plan(second, swarm)
    _check_planner(one)
    _check_planner(two)
    if one.plan.epoch != two.plan.epoch or one.hash == two.hash:
        return None
    return one.record.signer


class Adoption:
    """The adopted plan, the one before it, and the one whose mark is being written.

    Args:
        swarm: Whose plans.
        validate: The rules that every peer applies alike.
        timing: Grace and memory of refusals.
        high_water: From the disk; None for a peer that never adopted.
        met: Whether a key is, or was, a member's; what others sign is forgotten first.
    """

    def __init__(
        self,
        swarm: str,
        validate: Validator,
        timing: MembershipTiming,
        high_water: HighWater | None = None,
        *,
        met: Callable[[PeerId], bool],
    ) -> None:
        self._swarm = swarm
        self._validate = validate
        self._timing = timing
        self.high_water = high_water
        self.current: SignedPlan | None = None
        self._previous: SignedPlan | None = None
        self._previous_until_s = 0.0
        self._pending: SignedPlan | None = None
        self._overtaken_epoch = 0
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._lower: OrderedDict[bytes, None] = OrderedDict()
        self._first_plans = FirstPlans(met)

    @property
    def _adopted_epoch(self) -> int:
        return self.high_water.epoch if self.high_water else 0

    @property
    def highest_epoch(self) -> int:
        """Of all plans adopted, about to be, or to be overtaken."""
        pending = self._pending.plan.epoch if self._pending else 0
        return max(self._adopted_epoch, pending, self._overtaken_epoch)

    def previous(self, now_s: float) -> SignedPlan | None:
        """The plan before, within its grace period."""
        return self._previous if now_s < self._previous_until_s else None

    def accepts_epoch(self, epoch: int, now_s: float) -> bool:
        """Whether data messages of this epoch are taken: the current or the previous plan's."""
        held = (self.current, self.previous(now_s))
        return any(plan is not None and plan.plan.epoch == epoch for plan in held)

    def find(self, plan_hash: bytes, now_s: float) -> SignedPlan | None:
        """A plan held here by its hash; the current one for an empty hash."""
        if not plan_hash:
            return self.current
        for plan in (self.current, self.previous(now_s)):
            if plan is not None and plan.hash == plan_hash:
                return plan
        return None

    def wants(self, epoch: int, plan_hash: bytes, now: Now) -> bool:
        """Whether a plan that someone mentions is worth asking for."""
        if not plan_hash or epoch < 1 or epoch > highest_epoch_at(now.unix_s):
            return False
        if plan_hash in self._lower or self._is_refused(plan_hash, now.s):
            return False
        held = (self.current, self._pending)
        if any(plan is not None and plan.hash == plan_hash for plan in held):
            return False
        return epoch >= self._adopted_epoch

    def referred(self, content: bytes) -> Signed | None:
        """An announcement that one of the plans here refers to."""
        for plan in (self.current, self._pending, self._previous):
            if plan is not None and content in plan.referred:
                return plan.referred[content]
        return None

    def offer(
        self, record: Signed, now: Now, gather: Gather = _nothing_at_hand
    ) -> tuple[Offer, SignedPlan]:
        """Take a plan from anyone, ourselves included.

        Args:
            record: The plan.
            now: Time.
            gather: Gives what the plan refers to, as far as it is at hand.

        Returns:
            `PERSIST` and the plan: write `mark_of(plan)`, then call `persisted`. `INCOMPLETE`:
            offer it again when what is `missing` can be found. Anything else: no effect.

        Raises:
            SignatureError: The signature does not hold, or is for another swarm.
            DecodeError: It is not a plan.
            PlanRejected: It breaks a rule.
            Equivocation: Its planner has signed another plan of the same epoch.
        """
        plan_hash = hash_of_plan(record.body)
        if self._is_refused(plan_hash, now.s):
            raise PlanRejected("known", "this plan was refused before")
        try:
            signed = open_plan(record, self._swarm)
            _check_planner(signed)
            self._check_equivocation(signed)
            if self._is_known(signed):
                return Offer.KNOWN, signed
            if not self._is_higher(signed):
                _remember(self._lower, signed.hash, None)
                return Offer.LOWER, signed
            self._check_epoch(signed.plan, now.unix_s)
            if signed.plan.references:
                signed = replace(signed, referred=gather(signed.plan.references))
            if signed.missing:
                return Offer.INCOMPLETE, signed
            self._validate(signed, now.unix_s)
        except Equivocation:
            raise
        except (SignatureError, FutureEpoch):
            # The hash does not cover the signature, so a good copy may still come; and a clock that
            # lags by seconds agrees with the planner's when those have passed.
            raise
        except ProtocolError:
            _remember(self._refused, plan_hash, now.s + self._timing.rejected_s)
            raise
        self._pending = signed
        return Offer.PERSIST, signed

    def overtake(self, record: Signed, now: Now) -> bool:
        """A plan of a banned planner is about: plans made here are to rank above it.

        Returns:
            Whether it ranks above all that we know, and has a possible epoch.
        """
        try:
            plan = open_plan(record, self._swarm).plan
        except ProtocolError:
            return False
        if not self.highest_epoch <= plan.epoch <= highest_epoch_at(now.unix_s):
            return False
        self._overtaken_epoch = int(plan.epoch)
        return True

    def persisted(self, plan_hash: bytes, now_s: float) -> SignedPlan | None:
        """The mark is on disk.

        Returns:
            The plan, now adopted; None when a higher one has taken its place meanwhile.
        """
        plan = self._pending
        if plan is None or plan.hash != plan_hash:
            return None
        self._pending = None
        if self.current is not None:
            self._previous = self.current
            self._previous_until_s = now_s + self._timing.grace_s
        self.current = plan
        self.high_water = mark_of(plan)
        return plan

    def persist_failed(self, plan_hash: bytes) -> None:
        """The mark could not be written; the plan may be offered again."""
        if self._pending is not None and self._pending.hash == plan_hash:
            self._pending = None
            self._lower.clear()  # what was lower than the failed plan may be the highest now

    def _is_known(self, signed: SignedPlan) -> bool:
        held = (self.current, self._pending)
        return any(plan is not None and plan.hash == signed.hash for plan in held)

    def _is_higher(self, signed: SignedPlan) -> bool:
        floor = self._pending or self.current
        if floor is not None:
            return signed.order > floor.order
        # After a restart the plan of the mark itself may be adopted again.
        return self.high_water is None or signed.order >= self.high_water.order

    def _is_refused(self, plan_hash: bytes, now_s: float) -> bool:
        until_s = self._refused.get(plan_hash)
        return until_s is not None and now_s < until_s

    @staticmethod
    def _check_epoch(plan: Plan, unix_s: float) -> None:
        if plan.epoch > highest_epoch_at(unix_s):
            ahead = plan.epoch // EPOCHS_PER_SLOT - slot_of(unix_s)
            raise FutureEpoch("epoch", f"its epoch lies {ahead} slots ahead of this clock")

    def _check_equivocation(self, signed: SignedPlan) -> None:
        first = self._first_plans.other(signed.record, int(signed.plan.epoch))
        if first is not None:
            raise Equivocation(PushProof(first, signed.record))


class FutureEpoch(PlanRejected):
    """Its epoch is not yet possible by this clock; a later offer may find it possible."""


class Equivocation(ProtocolError):
    """A planner signed two different plans of one epoch.

    Args:
        proof: Both, for anyone to check.
    """

    code = "equivocation"

    def __init__(self, proof: PushProof) -> None:
        super().__init__(f"{proof.first.signer} signed two plans of one epoch")
        self.proof = proof


def _check_planner(signed: SignedPlan) -> None:
    """Or anyone could frame an honest planner with plans in its name."""
    if signed.plan.planner != signed.record.signer:
        raise PlanRejected("signature", "it is signed by another peer than its planner")


def mark_of(plan: SignedPlan) -> HighWater:
    """The mark to persist before `plan` is adopted."""
    return HighWater(*plan.order)


def _remember(memory: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
