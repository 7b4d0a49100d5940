"""From the view to the planner's input, and from a placement to a signed plan.

Always: a plan carries or refers to exactly the announcements that its snapshot was made of, and
carries the planner's own, so that whoever validates it sees what the planner saw.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from helix_p2p.cluster.announcement import Announcement
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.snapshot import Snapshot, snapshot_of
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.entry import MemberEntry
from helix_p2p.planning.plan import Placement, Plan, Reference, SignedPlan
from helix_p2p.planning.signed import sign_plan
from helix_p2p.types import MOST_PEERS, Epoch, PeerId


@dataclass(frozen=True, slots=True)
class Draft:
    """What a plan in the making rests on.

    Attributes:
        snapshot: The planner's input.
        records: Announcements that the plan carries.
        references: Those that it refers to.
        referred: The latter, by content.
    """

    snapshot: Snapshot
    records: tuple[Signed, ...]
    references: tuple[Reference, ...] = ()
    referred: Mapping[bytes, Signed] = field(default_factory=dict)

    @property
    def peers(self) -> frozenset[PeerId]:
        """Who can be given layers by it."""
        return frozenset(profile.peer for profile in self.snapshot.peers)


def draft(
    model: ModelSpec,
    own: tuple[Signed, Announcement],
    members: Iterable[MemberEntry],
    carried_limit_bytes: int,
) -> Draft:
    """Gather what to plan with.

    A small swarm's plan carries the announcements and is whole as it comes. A larger one's is a
    tenth as large without them, and whoever gets it has nearly all of them. In a swarm of more
    peers than a plan can name, those with the least memory are left out.

    Args:
        model: What is served.
        own: This peer's record and announcement; always part of it.
        members: Others that may be given layers.
        carried_limit_bytes: More announcements than this are referred to.
    """
    most_memory_first = sorted(members, key=lambda e: (-e.announcement.memory_bytes, e.peer))
    chosen = sorted(most_memory_first[: MOST_PEERS - 1], key=lambda entry: entry.peer)
    said = [(own[0].signer, own[1]), *((entry.peer, entry.announcement) for entry in chosen)]
    snapshot = snapshot_of(model, said)
    if sum(len(entry.record.body) for entry in chosen) <= carried_limit_bytes:
        records = sorted([own[0], *(entry.record for entry in chosen)], key=lambda r: r.signer)
        return Draft(snapshot, tuple(records))
    references = tuple(Reference(entry.peer, entry.content) for entry in chosen)
    referred = {entry.content: entry.record for entry in chosen}
    return Draft(snapshot, (own[0],), references, referred)


def plan_of(
    identity: Identity,
    swarm: str,
    *,
    epoch: Epoch,
    previous: SignedPlan | None,
    basis: Draft,
    placement: Placement,
    unix_s: float,
) -> Signed:
    """Make a placement an epoch of the swarm."""
    plan = Plan(
        epoch=epoch,
        planner=identity.peer_id,
        previous_hash=previous.hash if previous else b"",
        manifest_hash=basis.snapshot.model.manifest_hash,
        issued_unix_s=unix_s,
        announcements=basis.records,
        placement=placement,
        references=basis.references,
    )
    return sign_plan(plan, identity, swarm)


def same_decision(one: Placement, other: Placement) -> bool:
    """Whether two placements ask the same of everyone."""
    return one.assignments == other.assignments and one.flows == other.flows
