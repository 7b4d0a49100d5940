"""From the view to the planner's input, and from a placement to a signed plan.

Always: a plan carries exactly the announcements that its snapshot was made of, and the planner's
own, so that whoever validates it sees what the planner saw.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from helix_p2p import codec
from helix_p2p.cluster.announcement import Announcement
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.snapshot import Snapshot, snapshot_of
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.entry import MemberEntry
from helix_p2p.planning.plan import PLAN_KIND, Placement, Plan, SignedPlan
from helix_p2p.types import Epoch, PeerId

ANNOUNCEMENTS_LIMIT_BYTES = 768 * 1024
"""Leaves a quarter of a plan's 1 MiB for placement and flows."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a plan in the making rests on."""

    snapshot: Snapshot
    records: tuple[Signed, ...]

    @property
    def peers(self) -> frozenset[PeerId]:
        """Who can be given layers by it."""
        return frozenset(profile.peer for profile in self.snapshot.peers)


def draft(
    model: ModelSpec, own: tuple[Signed, Announcement], members: Iterable[MemberEntry]
) -> Draft:
    """Gather what to plan with.

    When the announcements of a very large swarm do not fit into a plan, the peers with the least
    memory are left out.

    Args:
        model: What is served.
        own: This peer's record and announcement; always part of it.
        members: Others that may be given layers.
    """
    chosen = [own]
    size = _size(own[0])
    most_memory_first = sorted(members, key=lambda e: (-e.announcement.memory_bytes, e.peer))
    for entry in most_memory_first:
        size += _size(entry.record)
        if size > ANNOUNCEMENTS_LIMIT_BYTES:
            break
        chosen.append((entry.record, entry.announcement))
    chosen.sort(key=lambda pair: pair[0].signer)
    snapshot = snapshot_of(model, ((record.signer, said) for record, said in chosen))
    return Draft(snapshot, tuple(record for record, _ in chosen))


def sign_plan(
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
    )
    return identity.sign(PLAN_KIND, swarm, codec.encode(plan))


def same_decision(one: Placement, other: Placement) -> bool:
    """Whether two placements ask the same of everyone."""
    return one.assignments == other.assignments and one.flows == other.flows


def _size(record: Signed) -> int:
    return len(record.body) + 160
