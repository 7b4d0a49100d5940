"""The plan: who holds which layers, how many tokens per second go over each edge, and the proof.

A plan is data. It is made by the planner, signed, and recomputed by nobody: `validate` lets every
peer recheck it in milliseconds from the announcements it rests on. A small swarm's plan carries
them; a large one's refers to them by hash, since nearly all are at hand wherever it comes
(docs/adr/0021). `packing` is how a plan is written.

Always: flows are integers in thousandths of a token per second, so that conservation and the cut
are exact; `value_mtokens_per_s` equals the flow out of the client side and the min cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from helix_p2p import codec
from helix_p2p.identity import Signed
from helix_p2p.types import Epoch, LayerRange, PeerId

PLAN_KIND = "plan"
PLAN_LIMIT_BYTES = 1024 * 1024


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

    peers: tuple[PeerId, ...] = ()
    links: tuple[tuple[PeerId | None, PeerId | None], ...] = ()
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

    assignments: tuple[Assignment, ...]
    flows: tuple[EdgeFlow, ...]
    value_mtokens_per_s: int
    bound_mtokens_per_s: int
    min_cut: MinCut
    solver: str
    solve_s: float
    prices: tuple[int, ...] = ()
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
class Reference:
    """An announcement that a plan rests on and does not carry.

    Attributes:
        peer: Whose.
        content: `announcement.content_of` it: what it says, whatever its sequence.
    """

    peer: PeerId
    content: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement as an epoch of a swarm, with what it rests on.

    Attributes:
        epoch: max(highest seen + 1, 64 · slot), slot = ⌊unix / 30 s⌋.
        planner: Who made it; must be the signer.
        previous_hash: Hash of the plan it follows, empty for the first.
        manifest_hash: The model.
        issued_unix_s: The planner's clock.
        announcements: The signed announcements that it used and carries; the planner's always.
        placement: The decision and its certificate.
        references: The others that it used.
    """

    epoch: Epoch
    planner: PeerId
    previous_hash: bytes
    manifest_hash: str
    issued_unix_s: float
    announcements: tuple[Signed, ...]
    placement: Placement
    references: tuple[Reference, ...] = ()

    @property
    def announced(self) -> tuple[PeerId, ...]:
        """Everyone whose word it rests on."""
        carried = tuple(record.signer for record in self.announcements)
        return carried + tuple(reference.peer for reference in self.references)


@dataclass(frozen=True, slots=True)
class SignedPlan:
    """A plan together with the bytes that were signed and their hash.

    Attributes:
        plan: As read.
        record: As signed.
        hash: Of the signed bytes.
        referred: The announcements behind the plan's references, by content; those that are known.
    """

    plan: Plan
    record: Signed
    hash: bytes
    referred: Mapping[bytes, Signed] = field(default_factory=dict, compare=False, repr=False)

    @property
    def order(self) -> tuple[int, bytes, bytes]:
        """The swarm's total order of plans: epoch, then a hash nobody can choose freely."""
        tie = codec.sha256(codec.encode((self.plan.epoch, self.plan.planner)))
        return (self.plan.epoch, tie, self.hash)

    @property
    def missing(self) -> tuple[bytes, ...]:
        """Contents of announcements that have to come before it can be validated."""
        return tuple(r.content for r in self.plan.references if r.content not in self.referred)
