"""Identities, announcements and plans for the membership tests."""

from functools import cache
from itertools import pairwise

from helix_p2p import codec
from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.errors import PlanRejected
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.credentials import open_swarm_id_of
from helix_p2p.membership.timing import Now
from helix_p2p.planning.plan import (
    Assignment,
    EdgeFlow,
    MinCut,
    Placement,
    Plan,
    SignedPlan,
)
from helix_p2p.planning.signed import open_plan, sign_plan
from helix_p2p.types import Epoch, LayerRange, PeerId

SWARM = open_swarm_id_of("test")
UNIX_S = 1_800_000_000.0
EPOCH = 64 * int(UNIX_S // 30)
MODEL = ModelSpec("test/model", "ab" * 32, 6, 8, 100, 2048, 1_000, 0, 0, 1, 32)
SPEED = SpeedProfile(prefill=((64, 0.01),), decode=((1, 0.001), (8, 0.002)))


@cache
def identity(number: int) -> Identity:
    return Identity(codec.sha256(f"member {number}".encode()))


def peer(number: int) -> PeerId:
    return identity(number).peer_id


def at(s: float) -> Now:
    return Now(s, UNIX_S + s)


def announcement(
    *,
    sequence: int = 1,
    incarnation: int = 1,
    issued_s: float = 0.0,
    state: PeerState = PeerState.STANDBY,
    memory_bytes: int = 8_000,
    speed: SpeedProfile | None = SPEED,
    serving: LayerRange | None = None,
    may_plan: bool = True,
    manifest_hash: str = MODEL.manifest_hash,
    credentials: bytes = b"",
) -> Announcement:
    return Announcement(
        incarnation=incarnation,
        sequence=sequence,
        issued_unix_s=UNIX_S + issued_s,
        manifest_hash=manifest_hash,
        state=state,
        memory_bytes=memory_bytes,
        speed=speed,
        serving=serving,
        may_plan=may_plan,
        credentials=credentials,
    )


def record(number: int, said: Announcement | None = None, swarm: str = SWARM) -> Signed:
    return (said or announcement()).signed(identity(number), swarm)


def placement(*numbers: int, solver: str = "even") -> Placement:
    peers = sorted(peer(number) for number in numbers)
    cuts = [MODEL.layers * i // len(peers) for i in range(len(peers) + 1)]
    held = tuple(Assignment(p, LayerRange(cuts[i], cuts[i + 1])) for i, p in enumerate(peers))
    way: list[PeerId | None] = [None, *peers, None]
    flows = tuple(EdgeFlow(a, b, 1000) for a, b in pairwise(way))
    return Placement(held, flows, 1000, 1000, MinCut(layer=0), solver, 0.0)


def plan(
    planner: int, epoch: int = EPOCH, *, solver: str = "even", swarm: str = SWARM, salt: float = 0.0
) -> SignedPlan:
    said = Plan(
        epoch=Epoch(epoch),
        planner=peer(planner),
        previous_hash=b"",
        manifest_hash=MODEL.manifest_hash,
        issued_unix_s=UNIX_S + salt,
        announcements=(record(planner),),
        placement=placement(planner, solver=solver),
    )
    return open_plan(sign_plan(said, identity(planner), swarm), swarm)


def check_plan(signed: SignedPlan, _now_unix_s: float) -> None:
    """In place of `planning.validate`: what the tests mark as bad is bad."""
    if signed.plan.placement.solver == "evil":
        raise PlanRejected("coverage", "an evil plan")
