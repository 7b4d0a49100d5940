"""What a member is and what it says of itself: the configuration and the changing part."""

from dataclasses import dataclass, field

from helix_p2p.cluster.announcement import LinkMeasurement, PaceMeasurement, PeerState
from helix_p2p.cluster.model import HeldSizes, ModelSpec
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.adoption import HighWater, Validator
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.types import LayerRange


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """What does not change while a member runs.

    Attributes:
        identity: Its key.
        swarm: Swarm id.
        incarnation: Start of this run, unix milliseconds.
        validate: `validate(plan, now_unix_s)`, the rules bound.
        model: What is served; None for a bootstrap node that serves any model.
        root_public_key: The swarm's root, 32 bytes; None in an open swarm.
        credentials: Our certificate chain; empty in an open swarm.
        may_plan: Whether it stands for election; False for bootstrap nodes.
        high_water: From the disk.
        revocations: The root's last list, from the disk.
        public_name: For dashboards.
        device: Hardware, for people.
        timing: All durations.
        ping_everyone_up_to: In swarms of at most this many others everyone is pinged.
        fan_out: Pings per period in larger ones.
        ways_in: Multiaddrs by which it comes in.
        most_members: More than this are not kept.
        carried_limit_bytes: Our plans carry announcements up to this, and refer to them beyond.
    """

    identity: Identity
    swarm: str
    incarnation: int
    validate: Validator
    model: ModelSpec | None = None
    root_public_key: bytes | None = None
    credentials: bytes = b""
    may_plan: bool = True
    high_water: HighWater | None = None
    revocations: Signed | None = None
    public_name: str = ""
    device: str = ""
    timing: MembershipTiming = field(default_factory=MembershipTiming)
    ping_everyone_up_to: int = 16
    fan_out: int = 8
    ways_in: tuple[str, ...] = ()
    most_members: int = 8192
    carried_limit_bytes: int = 32 * 1024

    @property
    def manifest_hash(self) -> str:
        """The model's, empty for a member that serves any."""
        return self.model.manifest_hash if self.model else ""


@dataclass(frozen=True, slots=True)
class OwnState:
    """What a member says of itself and may change at any time; fields as in `Announcement`."""

    state: PeerState = PeerState.STANDBY
    memory_bytes: int = 0
    speed: SpeedProfile | None = None
    serving: LayerRange | None = None
    addresses: tuple[str, ...] = ()
    links: tuple[LinkMeasurement, ...] = ()
    uplink_bytes_per_s: float | None = None
    downlink_bytes_per_s: float | None = None
    held: HeldSizes | None = None
    paces: tuple[PaceMeasurement, ...] = ()
