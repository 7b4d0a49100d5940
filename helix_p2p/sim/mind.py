"""A simulated peer's part in its swarm: what it lends, and what it knows besides serving.

Always: the same number is the same peer in every run; a crash takes all but the disk and the
weights.
"""

from bisect import insort
from dataclasses import dataclass, field
from functools import cache

from helix_p2p import codec
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.identity import Identity
from helix_p2p.membership.adoption import PlanOrder
from helix_p2p.membership.member import Member
from helix_p2p.planning.plan import Placement
from helix_p2p.sim.cell import Cell
from helix_p2p.sim.helix.setup import StageSetup, time_tables
from helix_p2p.types import LayerRange, PeerId

LINK_KEPT_S = 30.0
LEAST_LINKS = 64
MOST_PROMPTS, MOST_DECODES = 3, 256


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a volunteer lends.

    Attributes:
        memory_bytes: For weights and KV cache.
        speed: Seconds per layer.
        downlink_bytes_per_s: At which weights arrive.
        clock_offset_s: Of its wall clock.
    """

    memory_bytes: int
    speed: SpeedProfile
    downlink_bytes_per_s: float = 12.5e6
    clock_offset_s: float = 0.0


@dataclass(slots=True)
class Mind:
    """A peer's membership machine, its disk, and what it loads.

    Attributes:
        identity: Its key.
        hardware: What it lends.
        cell: Where it belongs.
        member: None while it is down.
        disk: Its high-water mark.
        weights: Layers that it has loaded once.
        target: What its plan wants of it.
        order: Of the last plan that it adopted in any run; no later one is older.
        followed: Its plan.
        routed: The plan that its router follows.
        runs: How many have ended.
        draining: Whether it is about to leave.
        elsewhere: Disk and order of the cells that it left, by their ids.
        linked: Who talked to it, and when; these see its end.
        seen: What its entry machine was shown.
    """

    identity: Identity
    hardware: Hardware
    cell: Cell
    member: Member | None = None
    disk: bytes | None = None
    weights: set[int] = field(default_factory=set)
    target: LayerRange | None = None
    order: PlanOrder | None = None
    followed: Placement | None = None
    routed: Placement | None = None
    runs: int = 0
    linked: dict[PeerId, float] = field(default_factory=dict)
    seen: tuple[object, ...] = ()
    prune_at: int = LEAST_LINKS
    draining: bool = False
    elsewhere: dict[str, tuple[bytes | None, PlanOrder | None]] = field(default_factory=dict)

    def stage(self, model: ModelSpec) -> StageSetup:
        """How fast its serving machine is; what it holds, plans say."""
        times = time_tables(self.hardware.speed, MOST_PROMPTS)
        layers = LayerRange(0, model.layers)
        return StageSetup(self.identity.peer_id, layers, 0, *times, MOST_PROMPTS, MOST_DECODES)

    def link(self, other: PeerId, now_s: float) -> None:
        """Who said something keeps its stream for a while, and sees this peer's end."""
        self.linked[other] = now_s
        if len(self.linked) > self.prune_at:
            self.linked = {p: s for p, s in self.linked.items() if now_s - s <= LINK_KEPT_S}
            self.prune_at = max(LEAST_LINKS, 2 * len(self.linked))

    def crash(self) -> None:
        """What a killed process takes with it."""
        self.member, self.target = None, None
        self.followed, self.routed, self.seen = None, None, ()
        self.draining = False
        self.runs += 1

    def move(self, cell: Cell) -> None:
        """It belongs into another cell from now on, and remembers what it did in this one."""
        self.elsewhere[self.cell.swarm] = self.disk, self.order
        self.cell.peers.remove(self.identity.peer_id)
        insort(cell.peers, self.identity.peer_id)
        self.cell = cell
        self.disk, self.order = self.elsewhere.get(cell.swarm, (None, None))


@cache
def identity_of(number: int) -> Identity:
    """The same peers in every run."""
    return Identity(codec.sha256(f"simulated peer {number}".encode()))
