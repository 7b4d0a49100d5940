"""Every decoder of the project: what it reads, from which valid inputs, and what it may take.

A decoder's `prepare` does what the sender does (sign, frame, write to a file) and is not judged;
its `read` goes as deep as the production code does before somebody acts on the bytes. `again`
gives a decoded value's bytes and those of a second round, which must be equal.
"""

import contextlib
import io
import json
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import base58
import msgspec

from helix_p2p import codec
from helix_p2p.cli.status import print_status
from helix_p2p.client.way_in import read_way_in
from helix_p2p.cluster import announcement as words
from helix_p2p.cluster.file import parse_cluster
from helix_p2p.cluster.manifest import MANIFEST_LIMIT_BYTES, decode_manifest
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.cluster.snapshot import snapshot_of
from helix_p2p.engine import manifest as folders
from helix_p2p.engine.hashes import HashCache
from helix_p2p.engine.header import read_header
from helix_p2p.engine.supported import check_supported
from helix_p2p.errors import ConfigError, HelixError, InputError, ProtocolError, from_wire
from helix_p2p.identity import Signed
from helix_p2p.membership import credentials, invite, records, revocations
from helix_p2p.membership import messages as m
from helix_p2p.membership.adoption import HIGH_WATER_LIMIT_BYTES, HighWater, equivocation
from helix_p2p.membership.crowd import ranges_of
from helix_p2p.membership.effects import MessageRefused
from helix_p2p.membership.election import LEASE_LIMIT_BYTES, open_lease
from helix_p2p.membership.handshake import Admission, check_hello
from helix_p2p.membership.member import Member
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.membership.timing import Now
from helix_p2p.net import lean_hivemind
from helix_p2p.net.channel import HELLO_LIMIT_BYTES
from helix_p2p.net.dht_gate import Gate
from helix_p2p.net.libp2p import peer_of_address
from helix_p2p.node import state
from helix_p2p.node.status import STATUS_LIMIT_BYTES, decode_status, encode_status, status_object
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.packing import decode_plan, encode_plan
from helix_p2p.planning.plan import PLAN_LIMIT_BYTES, Plan
from helix_p2p.planning.recreate import greedy_baseline
from helix_p2p.planning.signed import open_plan
from helix_p2p.planning.validate import PlanRules, validate
from helix_p2p.session import messages as s
from helix_p2p.sim.scenario import parse_scenario
from helix_p2p.wire.framing import (
    MESSAGE_LIMIT_BYTES,
    PREFIX,
    PREFIX_BYTES,
    decode_message,
    decode_prefix,
)
from helix_p2p.wire.registry import NUMBER_OF_TYPE
from tests.fuzz import seeds
from tests.fuzz.mutation import (
    Mutator,
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_path,
    mutate_tree,
)
from tests.fuzz.seeds import INVITE, ME, MODEL, NOW_UNIX_S, OTHERS, ROOT, SWARM
from tests.fuzz.trees import opened, sealed

REPOSITORY = Path(__file__).parents[2]


def _same(data: bytes) -> Any:
    return data


@dataclass(frozen=True)
class Decoder:
    """One decoder.

    Attributes:
        name: How it is called.
        read: The decoder; what it returns goes to `again`.
        seeds: Valid inputs.
        limit_bytes: The decoder's own limit; it may take four times as much memory.
        raises: What it may raise.
        prepare: From an input to what the decoder reads.
        mutate: Makes new inputs.
        again: (bytes of a decoded value, bytes of what is decoded from those).
        takes_s: CPU seconds it may take; more than the usual only for files of one's own.
        memory_bytes: Most memory, where that is not four times the limit; likewise.
        bombs: Whether inputs are trees whose lists can be blown up.
    """

    name: str
    read: Callable[[Any], Any]
    seeds: Callable[[], list[bytes]]
    limit_bytes: int
    raises: tuple[type[Exception], ...] = (ProtocolError,)
    prepare: Callable[[bytes], Any] = _same
    mutate: Mutator = mutate_tree
    again: Callable[[Any], tuple[bytes, bytes]] | None = None
    takes_s: float = 0.1
    memory_bytes: int | None = None
    bombs: bool = False


def _codec_again(value: Any) -> tuple[bytes, bytes]:
    once = codec.encode(value)
    return once, codec.encode(codec.decode(once, type(value), limit_bytes=2 * len(once)))


def _in_tree(name: str, values: Callable[[], list[object]], read: Any, **rest: Any) -> Decoder:
    """A decoder of canonical bytes with records in it."""
    rest.setdefault("again", _codec_again)
    rest.setdefault("bombs", True)
    return Decoder(name, read, lambda: [opened(v) for v in values()], prepare=sealed, **rest)


# ── frames ─────────────────────────────────────────────────────────────────────────────────────


def _frame(data: bytes) -> bytes:
    """A frame from `{"number", "message", "payload"}`; other bytes are a frame as they stand."""
    try:
        tree = msgspec.msgpack.decode(sealed(data))
        body = codec.encode(tree["message"])
        head = PREFIX.pack(b"hx", tree["number"], len(body), len(tree["payload"]))
        return bytes(head + body + tree["payload"])
    except Exception:  # noqa: BLE001 - whatever is no such tree
        return data


def _framed(value: Any, payload: bytes = b"") -> bytes:
    number = NUMBER_OF_TYPE[type(value)]
    return codec.encode(
        {"message": msgspec.msgpack.decode(opened(value)), "number": number, "payload": payload}
    )


def _read_frame(data: bytes) -> Any:
    if len(data) < PREFIX_BYTES:
        return None
    prefix = decode_prefix(data[:PREFIX_BYTES])
    message = decode_message(prefix, memoryview(data)[PREFIX_BYTES:][: prefix.message_bytes])
    match message:
        case s.Forward():
            s.check_forward(message)
        case s.Sampled():
            s.check_sampled(message)
        case m.ErrorReply() | s.Failure():
            str(from_wire(message.code, message.message, message.retry_after_s))
        case m.Hello():
            if len(data) > HELLO_LIMIT_BYTES:
                return None
    return message


def _read_activations(data: bytes) -> Any:
    from helix_p2p.node.steps import rows_of

    message = _read_frame(data)
    if isinstance(message, s.Forward):
        rows_of(message, memoryview(data)[PREFIX_BYTES + len(codec.encode(message)) :], MODEL)
    return message


def _activation_seeds() -> list[bytes]:
    from helix_p2p.engine.wireformat import DTYPES

    found = []
    for name, dtype in DTYPES.items():
        for rows, count, phase in (
            (1, 1, s.Phase.DECODE),
            (3, 1, s.Phase.DECODE),
            (1, 5, s.Phase.PREFILL),
        ):
            payload = b"\0\1" * (rows * count * MODEL.d_model * dtype.itemsize // 2)
            found.append(_framed(seeds.forward(phase, rows, count, name), payload))
    return found


# ── membership ─────────────────────────────────────────────────────────────────────────────────

_ADMISSION = Admission(SWARM, MODEL.manifest_hash, ROOT.public_key)


def _read_handshake(data: bytes) -> Any:
    hello = codec.decode(data, m.Hello, limit_bytes=HELLO_LIMIT_BYTES)
    check_hello(hello, _ADMISSION, remote=OTHERS[0].peer_id, now_unix_s=NOW_UNIX_S)
    return hello


def _read_certificate(data: bytes) -> Any:
    credentials.verify_credentials(
        data,
        peer=OTHERS[0].peer_id,
        swarm=SWARM,
        root_public_key=ROOT.public_key,
        now_unix_s=NOW_UNIX_S,
    )
    return codec.decode(data, credentials.Chain, limit_bytes=credentials.CHAIN_LIMIT_BYTES)


def _signed(read: Callable[[Signed], Any], limit_bytes: int) -> Callable[[bytes], Any]:
    def decode(data: bytes) -> Any:
        return read(codec.decode(data, Signed, limit_bytes=limit_bytes))

    return decode


def _read_announcement(record: Signed) -> Any:
    """As far as a planner goes with it: its word is planned with."""
    said = words.open_announcement(record, SWARM)
    snapshot = snapshot_of(MODEL, {**dict(_others()), record.signer: said}.items())
    capacities = capacities_of(snapshot)
    upper_bound(capacities)
    greedy_baseline(capacities, upper_bound(capacities))
    return said


@cache
def _others() -> list[tuple[Any, words.Announcement]]:
    return [(r.signer, words.open_announcement(r, SWARM)) for r in seeds.announcements()[1:4]]


_RULES = PlanRules(MODEL, SWARM)


@cache
def _at_hand() -> dict[bytes, Signed]:
    """What a plan may refer to."""
    return {words.content_of(record, SWARM): record for record in seeds.announcements()}


def _read_plan(record: Signed) -> Any:
    signed = replace(open_plan(record, SWARM), referred=_at_hand())
    validate(signed, _RULES, NOW_UNIX_S)
    return signed.plan


def _plan_again(plan: Plan) -> tuple[bytes, bytes]:
    once = encode_plan(plan)
    return once, encode_plan(decode_plan(once))


def _read_proof(data: bytes) -> Any:
    proof = codec.decode(data, m.PushProof, limit_bytes=MESSAGE_LIMIT_BYTES)
    equivocation(proof.first, proof.second, SWARM)
    return proof


_RECORD_RULES = records.RecordRules(SWARM, ROOT.public_key)


def _dht_record(data: bytes) -> Any:
    """(key, subkey, value, seconds left) from `[key, subkey, value tree, seconds]`."""
    try:
        where, subkey, value, expires = msgspec.msgpack.decode(sealed(data))
        value = value if isinstance(value, bytes) else codec.encode(value)
        where, subkey = str(where), None if subkey is None else str(subkey)
        return where, subkey, value, float(expires)
    except Exception:  # noqa: BLE001 - whatever is no such list
        return records.member_key(SWARM, ME.peer_id), ME.peer_id, data, 30.0


def _read_record(parts: tuple[str, str | None, bytes, float]) -> Any:
    return records.check_record(*parts, rules=_RECORD_RULES, now_unix_s=NOW_UNIX_S)


def _dht_seeds() -> list[bytes]:
    found = []
    for record in (*seeds.announcements()[:2], seeds.revocations()):
        where = records.member_key(SWARM, record.signer)
        if record.kind == revocations.REVOCATIONS_KIND:
            where = records.revocations_key(SWARM)
        tree = msgspec.msgpack.decode(opened(record))
        found.append(codec.encode([where, record.signer, tree, 60.0]))
    return found


@cache
def _gate() -> tuple[Any, Gate]:
    library = lean_hivemind.load()

    def check(where: str, subkey: str | None, value: bytes, expires_in_s: float) -> object:
        rules = _RECORD_RULES
        return records.check_record(
            where, subkey, value, expires_in_s, rules=rules, now_unix_s=NOW_UNIX_S
        )

    return library, Gate(library, records.allowed_keys(SWARM), check)


def _gate_record(data: bytes) -> Any:
    """What hivemind hands to its validator: a hashed key, packed subkey and value, an expiry."""
    where, subkey, value, expires = _dht_record(data)
    library, _ = _gate()
    pack = library.serializer_class.dumps
    name = library.key_class.generate(source=where).to_bytes()
    packed = value if len(value) % 3 == 0 else pack(value)
    return SimpleNamespace(
        key=name, subkey=pack(subkey), value=packed, expiration_time=expires + 2e9
    )


def _read_gate(record: Any) -> None:
    assert _gate()[1].validate(record) in (True, False)


_MEMBER_MESSAGES = tuple(
    kind for kind in NUMBER_OF_TYPE if kind.__module__ == m.__name__ and kind is not m.Hello
)


@cache
def _member_config(*, open_swarm: bool) -> MemberConfig:
    return MemberConfig(
        ME,
        SWARM,
        1,
        lambda plan, now_unix_s: validate(plan, _RULES, now_unix_s),
        MODEL,
        None if open_swarm else ROOT.public_key,
        b"" if open_swarm else seeds.chain(ME.public_key),
    )


def _letters(data: bytes) -> list[tuple[Any, Any]]:
    """(sender, message) from `[[number of the sender, frame], …]`."""
    try:
        entries = msgspec.msgpack.decode(data)
        return [
            (OTHERS[int(sender) % len(OTHERS)].peer_id, _read_frame(_frame(codec.encode(frame))))
            for sender, frame in entries[:12]
        ]
    except Exception:  # noqa: BLE001 - not letters, or not frames: other decoders' business
        return []


def _read_letters(letters: list[tuple[Any, Any]]) -> None:
    """A member takes messages, plans, and goes on; it never raises."""
    _member_takes(letters, _member_config(open_swarm=False))


def _read_letters_openly(letters: list[tuple[Any, Any]]) -> None:
    """The same in an open swarm, where nobody vouches and ranges of addresses are counted."""
    _member_takes(letters, _member_config(open_swarm=True))


def _member_takes(letters: list[tuple[Any, Any]], config: MemberConfig) -> None:
    member = Member(config, Random(1), Now(0.0, NOW_UNIX_S))
    own = OwnState(memory_bytes=500_000, speed=seeds.SPEED)
    member.set_own(own, Now(0.0, NOW_UNIX_S))
    now_s = 1.0
    for sender, message in letters:
        if isinstance(message, _MEMBER_MESSAGES):
            now = Now(now_s, NOW_UNIX_S + now_s)
            for effect in member.on_message(sender, message, now):
                assert not isinstance(effect, MessageRefused) or isinstance(
                    effect.error, HelixError
                )
            member.tick(now)
            now_s += 1.0
    snapshot = member.snapshot()
    if snapshot is not None:
        capacities_of(snapshot)


def _letter_seeds() -> list[bytes]:
    frames = [
        (type(v), msgspec.msgpack.decode(_framed(v)))
        for v in seeds.member_messages()
        if type(v) in _MEMBER_MESSAGES
    ]
    everything = [[n, frame] for n, (_, frame) in enumerate(frames)]
    talk = [f for kind, f in frames if kind in (m.MembersReply, m.Ping, m.Beat, m.PushPlan)]
    told = [f for kind, f in frames if kind in (m.PushPlan, m.Pong, m.GetMembers, m.MembersReply)]
    rest = [f for _, f in frames[10:]]
    return [
        codec.encode(everything[:10]),
        *(codec.encode([[n, f] for n, f in enumerate(some)]) for some in (talk, told, rest)),
    ]


# ── invites and addresses ──────────────────────────────────────────────────────────────────────


def _invite(data: bytes) -> str:
    """Text as it is pasted; a tree becomes an invite with a right checksum."""
    if data.startswith(invite.INVITE_PREFIX.encode()):
        return data.decode(errors="replace")
    body = sealed(data)
    return invite.INVITE_PREFIX + base58.b58encode(body + codec.sha256(body)[:4]).decode()


def _read_invite(text: str) -> Any:
    found = invite.read_invite(text)
    found.check(NOW_UNIX_S)
    found.credentials_for(ME.public_key)
    return found


def _invite_seeds() -> list[bytes]:
    address = f"/ip4/203.0.113.7/tcp/4001/p2p/{ME.peer_id}"
    made = invite.create_invite(
        root=ROOT,
        invite_seed=INVITE.seed,
        addresses=(address,),
        model_name="org/model",
        manifest_hash="ab" * 32,
        expires_unix_s=NOW_UNIX_S + 1,
    )
    free = invite.Invite(credentials.open_swarm_id_of("x"), (address,), "m", "")
    texts = [made.to_text(), free.to_text()]
    bodies = [base58.b58decode(t.removeprefix(invite.INVITE_PREFIX))[:-4] for t in texts]
    return [*(text.encode() for text in texts), *bodies]


def _invite_again(found: invite.Invite) -> tuple[bytes, bytes]:
    once = found.to_text()
    return once.encode(), invite.read_invite(once).to_text().encode()


def _read_address(text: str) -> None:
    with contextlib.suppress(InputError):
        read_way_in(text, NOW_UNIX_S)
    library = lean_hivemind.load()
    with contextlib.suppress(Exception):  # as libp2p.py and daemon.py take its errors
        library.multiaddr_class(text).to_bytes()
    ranges_of((text,))
    peer = peer_of_address(text)
    with contextlib.suppress(ValueError):  # as daemon.py takes them
        library.peer_id_class.from_base58(peer).to_bytes()


# ── files ──────────────────────────────────────────────────────────────────────────────────────


@cache
def _folder() -> tuple[Any, Path]:
    holder = tempfile.TemporaryDirectory(prefix="helix-fuzz-")
    return holder, Path(holder.name)


def _file(name: str) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        folder = _folder()[1] / name.split(".", 1)[0]
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_bytes(data)
        return path

    return write


def _safetensors(data: bytes) -> Path:
    """A file around a header: JSON gets its length and its tensors; other bytes are the file."""
    if data.startswith(b"{"):
        ends = [0]
        try:
            tensors = json.loads(data).values()
            ends += [t["data_offsets"][1] for t in tensors if "data_offsets" in t]
            filling = bytes(min(4096, max(ends)))
        except Exception:  # noqa: BLE001 - a header that is none
            filling = bytes(160)
        data = len(data).to_bytes(8, "little") + data + filling
    return _file("one.safetensors")(data)


def _index(data: bytes) -> Path:
    path = _file("model.safetensors.index.json")(data)
    shard = path.with_name("model.safetensors")
    if not shard.exists():
        shard.write_bytes((2).to_bytes(8, "little") + b"{}")
    return path


def _read_config(path: Path) -> None:
    config = folders.read_config(path.parent)
    check_supported(folders.architecture_of(config), config)
    folders.context_tokens(config)


_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 4,
    "max_position_embeddings": 2048,
    "rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 4096},
    "rope_parameters": {"type": "dynamic"},
    "torch_dtype": "bfloat16",
}


_HASHES = b'{"/m/a": {"size_bytes": 5, "mtime_ns": 6, "sha256": "ab", "tensors": {"t": "cd"}}}'
_QUANTISED = {"quantization_config": {"quant_method": "gptq"}}


def _stored(value: object) -> bytes:
    return codec.encode(value)


def _state_file(data: bytes) -> Path:
    """With its magic and checksum, as a damaged program might have written it."""
    body = data[1:] if data[:1] == b"\xc1" else None
    whole = body if body is not None else state._MAGIC + codec.sha256(data) + data
    return _file("high-water")(whole)


def _state_again(value: Any) -> tuple[bytes, bytes]:
    return _codec_again(value)


_HIGH_WATER = state.HighWaterMark(SWARM, (64, b"t" * 32, b"h" * 32))


def _read_known_peers(path: Path) -> Any:
    return state.read_value(path, tuple[str, ...])


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _examples(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [(REPOSITORY / "examples" / name).read_bytes() for name in names]


_SMALL_CLUSTER = b"""model = "llama-3.3-70b-4bit"
default_link = false
[[regions]]
name = "r"
rtt = "8 ms"
bandwidth = "1 Gb/s"
[[links]]
from = "r"
to = "b"
rtt = "45 ms"
one_way = true
[[peers]]
name = "a"
count = 4
device = "rtx-4090"
region = "r"
[[peers]]
name = "b"
memory = "8 GB"
tokens_per_s = [900, 450, 300]
[[peers]]
name = "c"
memory = "16 GB"
[peers.speed]
prefill = [[1, "1.1 ms"], [128, "6 ms"]]
decode = [[1, "1.1 ms"], [8, "1.3 ms"]]
head = "4 ms"
"""


def _read_cluster(text: str) -> None:
    parse_cluster(text)


def _read_scenario(text: str) -> None:
    parse_scenario(text, "scenario", REPOSITORY / "examples" / "scenarios")


# ── what people are shown ──────────────────────────────────────────────────────────────────────


def _read_status(data: bytes) -> Any:
    return decode_status(data)


def _status_again(value: Any) -> tuple[bytes, bytes]:
    once = encode_status(value)
    return once, encode_status(decode_status(once))


CONTROLS, FINE = {"Cc", "Cf", "Cs"}, "\n\u200c\u200d"


def _read_answer(data: bytes) -> None:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        print_status(status_object(data), as_json=False)
    odd = [c for c in shown.getvalue() if unicodedata.category(c) in CONTROLS and c not in FINE]
    assert not odd, f"a terminal would be sent {odd[:3]!r}"


# ── all of them ────────────────────────────────────────────────────────────────────────────────

_KIB, _MIB = 1024, 1024 * 1024
_OWN: dict[str, Any] = {"takes_s": 1.0, "memory_bytes": 64 * _MIB}
"""For files that a person chose: mistakes are expected in them, attacks are not."""
DRAWN_S = 0.5
"""For a table of a status on a terminal, whose rows are bounded; each takes half a millisecond."""


def _all() -> list[Decoder]:
    return [
        Decoder(
            "frame",
            _read_frame,
            lambda: [_framed(v) for v in (*seeds.member_messages(), *seeds.session_messages())],
            MESSAGE_LIMIT_BYTES,
            prepare=_frame,
            again=_codec_again,
            bombs=True,
        ),
        Decoder(
            "activations",
            _read_activations,
            _activation_seeds,
            MESSAGE_LIMIT_BYTES,
            prepare=_frame,
            again=_codec_again,
        ),
        _in_tree(
            "handshake", lambda: [seeds.hello()], _read_handshake, limit_bytes=HELLO_LIMIT_BYTES
        ),
        _in_tree(
            "certificate",
            lambda: [
                codec.decode(seeds.chain(OTHERS[0].public_key), credentials.Chain, limit_bytes=4096)
            ],
            _read_certificate,
            limit_bytes=credentials.CHAIN_LIMIT_BYTES,
        ),
        _in_tree(
            "announcement",
            lambda: list(seeds.announcements()[:2]),
            _signed(_read_announcement, 2 * words.ANNOUNCEMENT_LIMIT_BYTES),
            limit_bytes=words.ANNOUNCEMENT_LIMIT_BYTES,
        ),
        _in_tree(
            "plan",
            lambda: [seeds.plans()[0].record, seeds.unproven_plan(), seeds.referring_plan()],
            _signed(_read_plan, MESSAGE_LIMIT_BYTES),
            limit_bytes=PLAN_LIMIT_BYTES,
            again=_plan_again,
        ),
        _in_tree(
            "proof",
            lambda: [m.PushProof(*(p.record for p in seeds.plans()))],
            _read_proof,
            bombs=False,
            limit_bytes=MESSAGE_LIMIT_BYTES,
        ),
        _in_tree(
            "lease",
            lambda: [seeds.lease()],
            _signed(lambda record: open_lease(record, SWARM), 4096),
            limit_bytes=LEASE_LIMIT_BYTES,
        ),
        _in_tree(
            "revocations",
            lambda: [seeds.revocations()],
            _signed(lambda r: revocations.open_revocations(r, SWARM, ROOT.public_key), 16 * _KIB),
            limit_bytes=revocations.REVOCATIONS_LIMIT_BYTES,
        ),
        Decoder(
            "dht-record",
            _read_record,
            _dht_seeds,
            records.RECORD_LIMIT_BYTES,
            prepare=_dht_record,
            again=_codec_again,
        ),
        Decoder(
            "dht-gate", _read_gate, _dht_seeds, records.RECORD_LIMIT_BYTES, prepare=_gate_record
        ),
        Decoder("member", _read_letters, _letter_seeds, MESSAGE_LIMIT_BYTES, prepare=_letters),
        Decoder(
            "open-member",
            _read_letters_openly,
            _letter_seeds,
            MESSAGE_LIMIT_BYTES,
            prepare=_letters,
        ),
        Decoder(
            "invite",
            _read_invite,
            _invite_seeds,
            invite.INVITE_LIMIT_CHARACTERS,
            (InputError,),
            _invite,
            again=_invite_again,
        ),
        Decoder(
            "address",
            _read_address,
            lambda: [
                f"{where}/p2p/{ME.peer_id}".encode()
                for where in (
                    "/ip4/127.0.0.1/tcp/4001",
                    "/dns4/example.org/udp/1/quic-v1",
                    "/ip6/::1/tcp/9",
                )
            ],
            4 * _KIB,
            (InputError,),
            _text,
            mutate_path,
        ),
        Decoder(
            "manifest",
            decode_manifest,
            lambda: [manifest.encoded for manifest in seeds.manifests()],
            MANIFEST_LIMIT_BYTES,
            mutate=mutate_json,
            again=lambda v: (v.encoded, decode_manifest(v.encoded).encoded),
        ),
        Decoder(
            "status",
            _read_status,
            lambda: [encode_status(seeds.status())],
            STATUS_LIMIT_BYTES,
            mutate=mutate_json,
            again=_status_again,
        ),
        Decoder(
            "control-answer",
            _read_answer,
            lambda: [encode_status(seeds.status())],
            STATUS_LIMIT_BYTES,
            (HelixError,),
            mutate=mutate_json,
            takes_s=DRAWN_S,
        ),
        Decoder(
            "safetensors",
            read_header,
            lambda: [json.dumps(seeds.safetensors_header()).encode()],
            64 * _KIB,
            (InputError,),
            _safetensors,
            mutate_json,
            **_OWN,
        ),
        Decoder(
            "weight-index",
            lambda p: folders.weight_files(p.parent),
            lambda: [b'{"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}'],
            64 * _KIB,
            (InputError,),
            _index,
            mutate_json,
            **_OWN,
        ),
        Decoder(
            "model-config",
            _read_config,
            lambda: [json.dumps(c).encode() for c in (_CONFIG, _CONFIG | _QUANTISED)],
            64 * _KIB,
            (InputError,),
            _file("config.json"),
            mutate_json,
            **_OWN,
        ),
        Decoder(
            "high-water",
            HighWater.decode,
            lambda: [HighWater(64, b"t" * 32, b"h" * 32).encode()],
            HIGH_WATER_LIMIT_BYTES,
            again=_codec_again,
        ),
        Decoder(
            "state-file",
            lambda p: state.read_value(p, state.HighWaterMark),
            lambda: [_stored(_HIGH_WATER), b"\xc1" + state._MAGIC],
            64 * _KIB,
            (ConfigError,),
            _state_file,
            again=_state_again,
        ),
        Decoder(
            "known-peers",
            _read_known_peers,
            lambda: [_stored(("/ip4/127.0.0.1/tcp/1", "/ip4/1.2.3.4"))],
            64 * _KIB,
            (ConfigError,),
            _state_file,
        ),
        Decoder(
            "identity-key",
            state.load_or_create_key,
            lambda: [ME.to_libp2p()],
            4 * _KIB,
            (ConfigError,),
            _file("identity.key"),
            mutate_bytes,
        ),
        Decoder(
            "speed-cache",
            _read_speed,
            lambda: [msgspec.json.encode(seeds.SPEED)],
            64 * _KIB,
            (),
            _file("speed.json"),
            mutate_json,
            **_OWN,
        ),
        Decoder(
            "hash-cache",
            _read_hashes,
            lambda: [_HASHES],
            64 * _KIB,
            (),
            _file("sha256.json"),
            mutate_json,
            **_OWN,
        ),
        Decoder(
            "cluster-file",
            _read_cluster,
            lambda: [_SMALL_CLUSTER, *_examples("home-swarm.toml")()],
            64 * _KIB,
            (InputError,),
            _text,
            mutate_lines,
            **_OWN,
        ),
        Decoder(
            "scenario-file",
            _read_scenario,
            _examples("scenarios/home-churn.toml", "scenarios/paper.toml"),
            64 * _KIB,
            (InputError,),
            _text,
            mutate_lines,
            **_OWN,
        ),
    ]


def _read_speed(path: Path) -> SpeedProfile | None:
    from helix_p2p.engine.profile import _load

    return _load(path)


def _read_hashes(path: Path) -> Any:
    return HashCache(path)._known


@cache
def decoders() -> dict[str, Decoder]:
    """By name."""
    return {decoder.name: decoder for decoder in _all()}
