"""What membership takes from others: words, plans, proofs, certificates, records of the DHT."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec

from helix_p2p import codec
from helix_p2p.cluster import announcement as words
from helix_p2p.cluster.snapshot import snapshot_of
from helix_p2p.errors import HelixError
from helix_p2p.identity import Signed
from helix_p2p.membership import cell_count, credentials, records, revocations
from helix_p2p.membership import messages as m
from helix_p2p.membership.adoption import equivocation
from helix_p2p.membership.effects import MessageRefused
from helix_p2p.membership.election import LEASE_LIMIT_BYTES, open_lease
from helix_p2p.membership.handshake import Admission, check_hello
from helix_p2p.membership.member import Member
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.membership.timing import Now
from helix_p2p.net import lean_hivemind
from helix_p2p.net.channel import HELLO_LIMIT_BYTES
from helix_p2p.net.dht_gate import Gate
from helix_p2p.planning.bound import upper_bound
from helix_p2p.planning.capacity import capacities_of
from helix_p2p.planning.packing import decode_plan, encode_plan
from helix_p2p.planning.plan import PLAN_LIMIT_BYTES, Plan
from helix_p2p.planning.recreate import greedy_baseline
from helix_p2p.planning.signed import open_plan
from helix_p2p.planning.validate import PlanRules, validate
from helix_p2p.wire.framing import (
    MESSAGE_LIMIT_BYTES,
)
from helix_p2p.wire.registry import NUMBER_OF_TYPE
from tests.fuzz import seeds
from tests.fuzz.decoder import KIB, Decoder, codec_again, in_tree
from tests.fuzz.reading.frames import frame_of, framed, read_frame
from tests.fuzz.seeds import ME, MODEL, NOW_UNIX_S, OTHERS, ROOT, SWARM
from tests.fuzz.trees import opened, sealed

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
            (OTHERS[int(sender) % len(OTHERS)].peer_id, read_frame(frame_of(codec.encode(frame))))
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
        (type(v), msgspec.msgpack.decode(framed(v)))
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


DECODERS = (
    in_tree("handshake", lambda: [seeds.hello()], _read_handshake, limit_bytes=HELLO_LIMIT_BYTES),
    in_tree(
        "certificate",
        lambda: [
            codec.decode(seeds.chain(OTHERS[0].public_key), credentials.Chain, limit_bytes=4096)
        ],
        _read_certificate,
        limit_bytes=credentials.CHAIN_LIMIT_BYTES,
    ),
    in_tree(
        "announcement",
        lambda: list(seeds.announcements()[:2]),
        _signed(_read_announcement, 2 * words.ANNOUNCEMENT_LIMIT_BYTES),
        limit_bytes=words.ANNOUNCEMENT_LIMIT_BYTES,
    ),
    in_tree(
        "plan",
        lambda: [seeds.plans()[0].record, seeds.unproven_plan(), seeds.referring_plan()],
        _signed(_read_plan, MESSAGE_LIMIT_BYTES),
        limit_bytes=PLAN_LIMIT_BYTES,
        again=_plan_again,
    ),
    in_tree(
        "proof",
        lambda: [m.PushProof(*(p.record for p in seeds.plans()))],
        _read_proof,
        bombs=False,
        limit_bytes=MESSAGE_LIMIT_BYTES,
    ),
    in_tree(
        "lease",
        lambda: [seeds.lease()],
        _signed(lambda record: open_lease(record, SWARM), 4096),
        limit_bytes=LEASE_LIMIT_BYTES,
    ),
    in_tree(
        "revocations",
        lambda: [seeds.revocations()],
        _signed(lambda r: revocations.open_revocations(r, SWARM, ROOT.public_key), 16 * KIB),
        limit_bytes=revocations.REVOCATIONS_LIMIT_BYTES,
    ),
    in_tree(
        "cells",
        lambda: [seeds.cells()],
        _signed(lambda r: cell_count.open_cells(r, SWARM, ROOT.public_key), 4096),
        limit_bytes=cell_count.CELLS_LIMIT_BYTES,
    ),
    Decoder(
        "dht-record",
        _read_record,
        _dht_seeds,
        records.RECORD_LIMIT_BYTES,
        prepare=_dht_record,
        again=codec_again,
    ),
    Decoder("dht-gate", _read_gate, _dht_seeds, records.RECORD_LIMIT_BYTES, prepare=_gate_record),
    Decoder("member", _read_letters, _letter_seeds, MESSAGE_LIMIT_BYTES, prepare=_letters),
    Decoder(
        "open-member",
        _read_letters_openly,
        _letter_seeds,
        MESSAGE_LIMIT_BYTES,
        prepare=_letters,
    ),
)
