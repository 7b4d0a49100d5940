"""The plan: who holds which layers, how many tokens per second go over each edge, and the proof.

A plan is data. It is made by the planner, signed, and recomputed by nobody: `validate` (next
module) lets every peer recheck it in milliseconds from the announcements it carries.

Always: flows are integers in thousandths of a token per second, so that conservation and the cut
are exact; `value_mtokens_per_s` equals the flow out of the client side and the min cut.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from helix_p2p import codec
from helix_p2p.codec import at_most
from helix_p2p.errors import DecodeError
from helix_p2p.identity import Signed
from helix_p2p.types import MOST_LAYERS, MOST_PEERS, Epoch, LayerRange, PeerId

PLAN_KIND = "plan"
PLAN_LIMIT_BYTES = 1024 * 1024
OPENED_KEPT = 4
"""The latest plans come from several neighbours at once, and are read once."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A peer and the layers it is to hold."""

    peer: PeerId
    layers: LayerRange


@dataclass(frozen=True, slots=True)
class EdgeFlow:
    """Planned traffic from one peer to another.

    Attributes:
        source: None for the clients' side.
        target: None for the sink.
        mtokens_per_s: Thousandths of a token per second, > 0.
    """

    source: PeerId | None
    target: PeerId | None
    mtokens_per_s: int


@dataclass(frozen=True, slots=True)
class MinCut:
    """Why the flow cannot be larger.

    Attributes:
        peers: Peers whose own capacity is in the cut.
        links: Links (from, to) that are in the cut; None stands for the clients' side or the sink.
        layer: With no link in it, the layer whose holders together are the cut.
    """

    peers: Annotated[tuple[PeerId, ...], at_most(MOST_PEERS)] = ()
    links: Annotated[tuple[tuple[PeerId | None, PeerId | None], ...], at_most(4 * MOST_PEERS)] = ()
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """What a planner decides, before it becomes an epoch of a swarm.

    Attributes:
        assignments: Ascending by peer; a peer without layers is absent.
        flows: Every edge that carries flow.
        value_mtokens_per_s: Max flow over the placement.
        bound_mtokens_per_s: Proven: no placement of these peers carries more.
        min_cut: Of the max flow.
        solver: What found it, e.g. `beam`, `highs`.
        solve_s: How long it took.
        prices: One per layer, whole and relative; with them anyone recomputes the bound. Empty for
            equal prices.
        bound_proof: `prices` when the bound is what the prices give; else the search that lowered
            it further (`sweep`, `highs`), which takes a run of it to repeat.
    """

    assignments: Annotated[tuple[Assignment, ...], at_most(MOST_PEERS)]
    flows: Annotated[tuple[EdgeFlow, ...], at_most(4 * MOST_PEERS)]
    value_mtokens_per_s: int
    bound_mtokens_per_s: int
    min_cut: MinCut
    solver: str
    solve_s: float
    prices: Annotated[tuple[int, ...], at_most(MOST_LAYERS)] = ()
    bound_proof: str = "prices"

    @property
    def gap(self) -> float:
        """(bound - value) / bound; 0 is proven optimal."""
        if self.bound_mtokens_per_s == 0:
            return 0.0
        return max(0.0, 1.0 - self.value_mtokens_per_s / self.bound_mtokens_per_s)

    def range_of(self, peer: PeerId) -> LayerRange | None:
        """What a peer is to hold."""
        for assignment in self.assignments:
            if assignment.peer == peer:
                return assignment.layers
        return None


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement as an epoch of a swarm, with what it rests on.

    Attributes:
        epoch: max(highest seen + 1, 64 · slot), slot = ⌊unix / 30 s⌋.
        planner: Who made it; must be the signer.
        previous_hash: Hash of the plan it follows, empty for the first.
        manifest_hash: The model.
        issued_unix_s: The planner's clock.
        announcements: The signed announcements that it used.
        placement: The decision and its certificate.
    """

    epoch: Epoch
    planner: PeerId
    previous_hash: bytes
    manifest_hash: str
    issued_unix_s: float
    announcements: Annotated[tuple[Signed, ...], at_most(MOST_PEERS)]
    placement: Placement


@dataclass(frozen=True, slots=True)
class SignedPlan:
    """A plan together with the bytes that were signed and their hash."""

    plan: Plan
    record: Signed
    hash: bytes

    @property
    def order(self) -> tuple[int, bytes, bytes]:
        """The swarm's total order of plans: epoch, then a hash nobody can choose freely."""
        tie = codec.sha256(codec.encode((self.plan.epoch, self.plan.planner)))
        return (self.plan.epoch, tie, self.hash)


@lru_cache(maxsize=OPENED_KEPT)
def hash_of_plan(body: bytes) -> bytes:
    """The hash by which a plan is asked for; a mebibyte takes a millisecond, so some are kept."""
    return codec.sha256(body)


@lru_cache(maxsize=OPENED_KEPT)
def open_plan(record: Signed, swarm: str) -> SignedPlan:
    """Verify the signature over a plan and read it; whether it is a good plan is `validate`'s.

    Raises:
        SignatureError: Wrong swarm, kind or signature, or the signer is not the planner.
        DecodeError: The body is not a plan, or too long for one.
    """
    if len(record.body) > PLAN_LIMIT_BYTES:  # the signature's check would copy it
        raise DecodeError(f"a plan of {len(record.body)} bytes, at most {PLAN_LIMIT_BYTES} fit")
    record.verify(kind=PLAN_KIND, swarm=swarm)
    plan = codec.decode(record.body, Plan, limit_bytes=PLAN_LIMIT_BYTES)
    return SignedPlan(plan, record, hash_of_plan(record.body))
