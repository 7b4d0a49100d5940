"""What the membership machine wants done, as values; the node does it.

Always: an effect carries all that is needed to act on it. Effects of one input are to be carried
out in order. `PersistHighWater` must be on disk before the node answers with
`Member.on_high_water_persisted`; only then does `Adopted` follow.
"""

from dataclasses import dataclass

from msgspec import Struct

from helix_p2p.cluster.announcement import Announcement
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import HelixError
from helix_p2p.identity import Signed
from helix_p2p.membership.adoption import HighWater
from helix_p2p.membership.messages import (
    Beat,
    GetMembers,
    GetPlan,
    MembersReply,
    PeerGone,
    Ping,
    PlanReply,
    Pong,
    PushPlan,
    PushProof,
    PushRevocations,
)
from helix_p2p.planning.plan import Placement, SignedPlan
from helix_p2p.planning.work import Work
from helix_p2p.types import Epoch, PeerId

MemberMessage = (
    Ping
    | Pong
    | GetPlan
    | PlanReply
    | GetMembers
    | MembersReply
    | Beat
    | PushPlan
    | PushProof
    | PushRevocations
    | PeerGone
)
"""What members say to each other: the input of `Member.on_message`, the load of `SendTo`."""


class SendTo(Struct, frozen=True, gc=False):
    """Send; no answer is waited for, it comes as a message.

    If the peer cannot be reached, tell `Member.on_unreachable`.
    """

    peer: PeerId
    message: MemberMessage


class PublishRecord(Struct, frozen=True, gc=False):
    """Store in the DHT under (key, subkey)."""

    key: str
    subkey: str
    record: Signed
    expires_in_s: float


class LookUpMembers(Struct, frozen=True, gc=False):
    """Read these DHT keys, then tell `Member.on_records` all records found, even if none."""

    keys: tuple[str, ...]


class PersistHighWater(Struct, frozen=True, gc=False):
    """Write to disk, atomically and synced, then tell `Member.on_high_water_persisted`.

    When it cannot be written, tell `Member.on_high_water_failed`.
    """

    mark: HighWater


@dataclass(frozen=True, slots=True)
class PersistRevocations:
    """The root's list holds from now on: keep it for the next start; no answer is waited for."""

    record: Signed


@dataclass(frozen=True, slots=True)
class Expelled:
    """Our own membership is over, revoked or expired: nobody will talk with us."""

    error: HelixError


@dataclass(frozen=True, slots=True)
class Adopted:
    """This plan holds from now on; `previous` is still accepted for the grace period."""

    plan: SignedPlan
    previous: SignedPlan | None


@dataclass(frozen=True, slots=True)
class StartPlanning:
    """Solve, then tell `Member.on_plan_solved` or `on_plan_failed` with the same `request`.

    Attributes:
        request: Number of this job; a later one makes earlier ones worthless.
        snapshot: What to plan over.
        live: The placement that holds now, to start from and to move little from.
        epoch: The epoch that the plan will have at least (for showing).
        work: A repair, which is waited for, or an improvement, which may take its time.
    """

    request: int
    snapshot: Snapshot
    live: Placement | None
    epoch: Epoch
    work: Work = Work.REPAIR


@dataclass(frozen=True, slots=True)
class PlanPushed:
    """Our own plan was signed, adopted here and sent to so many peers."""

    plan: SignedPlan
    peers: int


@dataclass(frozen=True, slots=True)
class PlanningFailed:
    """The swarm has no new plan, for this reason (e.g. `SwarmTooSmall`)."""

    error: HelixError


@dataclass(frozen=True, slots=True)
class PlanRefused:
    """A plan was not adopted: the broken rule, and who brought it."""

    peer: PeerId
    plan_hash: bytes
    error: HelixError


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """A peer sent something that does not hold; the rest of its message was used."""

    peer: PeerId
    error: HelixError


@dataclass(frozen=True, slots=True)
class BecamePlanner:
    """This peer plans from now on."""

    reason: str


@dataclass(frozen=True, slots=True)
class SteppedDown:
    """This peer plans no longer."""

    reason: str


class MemberJoined(Struct, frozen=True, gc=False):
    """A member is here (again)."""

    peer: PeerId
    announcement: Announcement


class MemberChanged(Struct, frozen=True, gc=False):
    """A member's state, layers, memory or speed changed."""

    peer: PeerId
    announcement: Announcement


class MemberLost(Struct, frozen=True, gc=False):
    """A member is gone: `left`, `silent`, `lost` (link and probe failed) or `banned`."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Banned:
    """A key has proven its own dishonesty; `proof` convinces anyone."""

    peer: PeerId
    proof: PushProof


@dataclass(frozen=True, slots=True)
class ClockSkewed:
    """Our wall clock differs from the other members'; while it does, this peer does not plan.

    Attributes:
        offset_s: Theirs minus ours; None when ours is right again.
    """

    offset_s: float | None


@dataclass(frozen=True, slots=True)
class PlanOmits:
    """The plan leaves out members that have long been here: a planner that picks and chooses."""

    planner: PeerId
    peers: tuple[PeerId, ...]


Effect = (
    SendTo
    | PublishRecord
    | LookUpMembers
    | PersistHighWater
    | PersistRevocations
    | Expelled
    | Adopted
    | StartPlanning
    | PlanPushed
    | PlanningFailed
    | PlanRefused
    | MessageRefused
    | BecamePlanner
    | SteppedDown
    | MemberJoined
    | MemberChanged
    | MemberLost
    | Banned
    | ClockSkewed
    | PlanOmits
)
