"""Valid values of every kind that is sent or stored; where mutation starts from."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

from helix_p2p import codec
from helix_p2p.cluster.announcement import (
    Announcement,
    LinkMeasurement,
    PaceMeasurement,
    PeerState,
    content_of,
    word_of,
)
from helix_p2p.cluster.manifest import Manifest, ManifestFile
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.cluster.snapshot import snapshot_of
from helix_p2p.identity import Signed
from helix_p2p.membership import messages as m
from helix_p2p.membership.cell_count import CellCount, write_cells
from helix_p2p.membership.credentials import ALL_ROLES, certify, grant, swarm_id_of
from helix_p2p.membership.election import LEASE_KIND
from helix_p2p.membership.handshake import Admission
from helix_p2p.membership.revocations import revoke
from helix_p2p.node.status import MemberStatus, NodeStatus, plan_status
from helix_p2p.planning.plan import MinCut, Plan, Reference, SignedPlan
from helix_p2p.planning.planner import PlanOptions
from helix_p2p.planning.planner import plan as plan_swarm
from helix_p2p.planning.signed import open_plan, sign_plan
from helix_p2p.session import messages as s
from helix_p2p.session import recheck_messages as r
from helix_p2p.types import Epoch, LayerRange, PeerId, SessionId
from tests.fuzz.trees import key

NOW_UNIX_S = 1_800_000_000.0
ROOT, INVITE, ME = key(0), key(1), key(2)
OTHERS = tuple(key(number) for number in range(3, 8))
SWARM = swarm_id_of(ROOT.public_key)
MODEL = ModelSpec("test/model", "ab" * 32, 12, 16, 1000, 512, 50_000, 4_000, 4_000, 64, 32)
SPEED = SpeedProfile(((16, 0.002), (256, 0.008)), ((1, 0.001), (8, 0.0014), (64, 0.005)), 0.0005)
SESSION = SessionId(b"s" * 16)
HOSTS = ("127.0.0.1", "8.8.8.8", "8.8.8.9", "192.168.1.7", "9.9.9.9", "1.1.1.1")
GRANT = grant(ROOT, INVITE, ALL_ROLES, NOW_UNIX_S + 86_400)


def chain(public_key: bytes) -> bytes:
    """A member's certificate."""
    return certify(INVITE, GRANT, public_key)


@cache
def announcements() -> tuple[Signed, ...]:
    """What the members of a small swarm say of themselves."""
    records = []
    for number, identity in enumerate((ME, *OTHERS)):
        said = Announcement(
            incarnation=1_700_000_000_000 + number,
            sequence=7,
            issued_unix_s=NOW_UNIX_S - 5,
            manifest_hash=MODEL.manifest_hash,
            state=list(PeerState)[number % 3],
            memory_bytes=300_000 + 150_000 * number,
            held=replace(MODEL.held, layer_bytes=MODEL.layer_bytes // 2) if number == 1 else None,
            speed=SPEED,
            serving=LayerRange(0, 4) if number == 2 else None,
            addresses=(f"/ip4/{HOSTS[number]}/tcp/40{number:02}/p2p/{identity.peer_id}",),
            links=(LinkMeasurement(OTHERS[0].peer_id, 0.01, 1e6),) if number else (),
            paces=(PaceMeasurement(OTHERS[1].peer_id, 1.5),) if number == 1 else (),
            public_name=f"home {number}",
            device="a card",
            uplink_bytes_per_s=1e6 if number % 2 else None,
            downlink_bytes_per_s=2e6 if number % 3 else None,
            credentials=chain(identity.public_key),
        )
        records.append(said.signed(identity, SWARM))
    return tuple(records)


@cache
def plans() -> tuple[SignedPlan, ...]:
    """A real plan of that swarm, and one like it."""
    said = [
        (record.signer, codec.decode(record.body, Announcement, limit_bytes=10_000))
        for record in announcements()
    ]
    placement = plan_swarm(snapshot_of(MODEL, said), PlanOptions(steps=20))
    made = []
    for extra in (0.0, 1.0):
        plan = Plan(
            epoch=Epoch(64 * int(NOW_UNIX_S // 30)),
            planner=ME.peer_id,
            previous_hash=b"",
            manifest_hash=MODEL.manifest_hash,
            issued_unix_s=NOW_UNIX_S - extra,
            announcements=announcements(),
            placement=placement,
        )
        made.append(open_plan(sign_plan(plan, ME, SWARM), SWARM))
    return tuple(made)


def unproven_plan() -> Signed:
    """A plan that fills every list that a real one may leave empty."""
    plan = plans()[0].plan
    peers = (ME.peer_id, OTHERS[0].peer_id)
    cut = MinCut(peers, ((None, peers[0]), (peers[0], peers[1])), None)
    placement = replace(plan.placement, min_cut=cut, prices=(1,) * MODEL.layers)
    return sign_plan(replace(plan, placement=placement), ME, SWARM)


def referring_plan() -> Signed:
    """A plan that carries its planner's word alone and refers to all others."""
    plan = plans()[0].plan
    own, *others = announcements()
    references = tuple(Reference(r.signer, content_of(r, SWARM)) for r in others)
    return sign_plan(replace(plan, announcements=(own,), references=references), ME, SWARM)


def words() -> tuple[bytes, ...]:
    """What members tell instead of announcements."""
    return tuple(word_of(record, SWARM) for record in announcements())


def lease(number: int = 1) -> Signed:
    """A beat of the planner."""
    said = m.Lease(plans()[0].plan.epoch, plans()[0].hash, number)
    return ME.sign(LEASE_KIND, SWARM, codec.encode(said))


def cells() -> Signed:
    """In how many cells the swarm lives."""
    return write_cells(ROOT, CellCount(7, 3))


def revocations() -> Signed:
    """The root's list."""
    return revoke(ROOT, 3, ["0123456789abcdef"], [OTHERS[1].peer_id])


def hello() -> m.Hello:
    """The first frame of a member."""
    admission = Admission(SWARM, MODEL.manifest_hash, ROOT.public_key, chain(OTHERS[0].public_key))
    return admission.hello(b"n" * 16)


def member_messages() -> list[object]:
    """One of each, with real records in it."""
    one, two, *_ = announcements()
    plan = plans()[0]
    peer = OTHERS[0].peer_id
    return [
        hello(),
        m.Ping(plan.plan.epoch, plan.hash, two, 5, NOW_UNIX_S, (one, two), lease()),
        m.Pong(plan.plan.epoch, plan.hash, two, 5, NOW_UNIX_S, (one,), lease()),
        m.Ping(
            plan.plan.epoch,
            plan.hash,
            None,
            6,
            seen=words()[0],
            news=words()[1:4],
            gone=words()[4:],
        ),
        m.Pong(0, b"", None, 6, news=words()[:2], gone=words()[2:3], beat=1, revocations=3),
        m.GetPlan(plan.hash),
        m.PlanReply(plan.record),
        m.GetMembers(),
        m.GetMembers(words()[:3]),
        m.MembersReply(announcements()),
        m.Beat(lease(2)),
        m.GetFile("tokenizer.json"),
        m.FileReply("tokenizer.json", found=True),
        m.GetStatus(),
        m.StatusReply(),
        m.Probe(1000),
        m.ProbeReply(1000),
        m.ErrorReply("busy", "no room", 2.5),
        m.PeerGone(peer, leaving=False),
        m.PushPlan(plan.record),
        m.PushPlan(referring_plan()),
        m.PushProof(plan.record, plans()[1].record),
        m.PushRevocations(revocations()),
        m.Heartbeat(1, 2),
        m.GetMembers(cell=3),
        m.GetRootWords(3, 4),
        m.RootWords(cells(), revocations()),
        m.RootWords(),
    ]


def session_messages() -> list[object]:
    """One of each and more."""
    peers = [identity.peer_id for identity in OTHERS]
    failure = s.Failure("busy", "no room", 1.0)
    sampling = s.Sampling(0.7, 40, 0.9, 1.1, 42)
    return [
        s.Generate(SESSION, (1, 2, 900), 20, (5, 6), (2,), sampling, (peers[0],)),
        s.Cancel(SESSION),
        s.Delivered(SESSION, 3, (4, 5), s.FinishReason.STOP, ((peers[0], LayerRange(0, 12)),)),
        s.Refused(SESSION, failure),
        s.Open(
            SESSION,
            1,
            9,
            LayerRange(4, 12),
            peers[0],
            peers[1],
            None,
            50,
            s.LastStage(sampling, (1, 2, 3)),
        ),
        s.Opened(SESSION, 1, failure),
        s.Close(SESSION, 1),
        forward(s.Phase.DECODE, 3),
        s.Forward(s.Phase.PREFILL, (SESSION,), (1,), (0,), (4,), (True,), (1, 2, 3, 4)),
        s.Sampled((SESSION,) * 2, (1, 1), (7, 9), (3, 4)),
        s.StageFailed(SESSION, 1, peers[0], failure),
        r.GetTrace(SESSION, 1, True, 64),
        r.TraceReply((4, 1), (False, True), "bf16", "bf16 int8"),
        r.Rerun(LayerRange(4, 12), (4, 1), (False, True), "bf16", sampling),
        r.RerunReply((7,), "", "bf16 int8"),
    ]


def forward(phase: s.Phase, rows: int, count: int = 1, dtype: str = "f32") -> s.Forward:
    """A frame with activations behind it."""
    names = tuple(SessionId(bytes([n]) * 16) for n in range(rows))
    return s.Forward(
        phase, names, (1,) * rows, (5,) * rows, (count,) * rows, (True,) * rows, (), dtype
    )


def manifests() -> list[Manifest]:
    """A model's list of files."""
    files = (
        ManifestFile("config.json", 700, "0" * 64, shared=True),
        ManifestFile("model.safetensors", 10**9, "ab" * 32),
        ManifestFile("tokenizer.json", 2_000_000, "cd" * 32, shared=True),
    )
    return [
        Manifest("org/model", "LlamaForCausalLM", 30, 49152, 2048, files),
        Manifest("x", "OPTForCausalLM", 1, 1, 1, ()),
    ]


def status() -> NodeStatus:
    """How a node describes itself."""
    members = tuple(
        MemberStatus(record.signer, "serving", f"n{i}", "a card", 10**9, (0, 4), 9, 0.01, 1.5)
        for i, record in enumerate(announcements())
    )
    peer: PeerId = ME.peer_id
    return NodeStatus(
        "peer",
        peer,
        SWARM,
        True,
        "org/model",
        "ab" * 32,
        12,
        "serving",
        "why",
        ("/ip4/127.0.0.1/tcp/1",),
        "a card",
        "bf16",
        10**9,
        (0, 4),
        (0, 6),
        3,
        plan=plan_status(plans()[0]),
        members=members,
        planner=peer,
    )


def safetensors_header() -> dict[str, object]:
    """The header of a file with two tensors in a row."""
    shapes = {"a.weight": [4, 8], "b.weight": [8]}
    ends = [0, 128, 160]
    return {
        "__metadata__": {"format": "pt"},
        **{
            name: {"dtype": "F32", "shape": shape, "data_offsets": list(place)}
            for (name, shape), place in zip(shapes.items(), pairwise(ends), strict=True)
        },
    }
