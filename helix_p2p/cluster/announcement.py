"""What a peer says of itself to the swarm, under its own signature.

Ordered by (incarnation, sequence), never by expiry: a peer that restarts takes a higher
incarnation (its start time in milliseconds), and each announcement a higher sequence.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import isfinite
from typing import Annotated

from msgspec import Struct

from helix_p2p import codec
from helix_p2p.cluster.model import HeldSizes
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.codec import at_most
from helix_p2p.errors import RecordRejected
from helix_p2p.identity import Identity, Signed
from helix_p2p.remembered import remembered
from helix_p2p.types import LayerRange, PeerId

ANNOUNCEMENT_KIND = "announcement"
ANNOUNCEMENT_LIMIT_BYTES = 10 * 1024
PROTOCOL_VERSION = 1
LARGEST_SIZE_BYTES = 2**48
"""Of a part of a model; sums of a swarm's stay far inside 64 bits."""
MOST_PACES = 15
WORD_BYTES = 8
CONTENT_BYTES = 24
"""Of the hash by which a plan refers to an announcement; two that collide cost 2⁹⁶ tries."""
WORD_LIFE_S = 1800
"""A peer that says nothing new is told anew this often: a plan may use words of 3600 s at most."""
OPENED_KEPT = 4096
"""Announcements that were read are kept: each comes several times, and again in every plan."""


class PeerState(StrEnum):
    """A peer's life: waits, loads what the plan says, serves, finishes its sessions and leaves."""

    STANDBY = "standby"
    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    LEFT = "left"


ROUTED = (PeerState.LOADING, PeerState.SERVING)
"""States in which what is served may be routed over."""


@dataclass(frozen=True, slots=True)
class LinkMeasurement:
    """What this peer measured towards another one, and from there."""

    peer: PeerId
    rtt_s: float
    bandwidth_bytes_per_s: float | None = None
    back_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class PaceMeasurement:
    """How many times longer another peer's layers took than it says; see `cluster.belief`."""

    peer: PeerId
    slower: float


@dataclass(frozen=True, slots=True)
class Announcement:
    """One peer's word on itself.

    Attributes:
        incarnation: Start of this run, unix milliseconds.
        sequence: Rises by one with each announcement of this run.
        issued_unix_s: The peer's wall clock; only for showing and for finding skewed clocks.
        manifest_hash: The model it serves.
        state: Where it is in its life.
        memory_bytes: For weights and KV cache, on its device.
        speed: Measured seconds per layer; None until measured (a bootstrap node never has one).
        serving: The layers that are loaded and served now; None when none.
        addresses: Multiaddrs with `/p2p/…` at which others reach it.
        links: Measured towards a few peers, at most 64.
        paces: Measured of those it is a witness for.
        epoch: Highest plan it adopted, with its hash.
        may_plan: Whether it stands for election.
        public_name: How it wants to be called on a dashboard.
        device: Hardware, for people.
        uplink_bytes_per_s: Measured or set limit; None when unknown.
        downlink_bytes_per_s: Likewise.
        credentials: Encoded certificate chain, empty in an open swarm.
        protocol_version: Of whoever wrote it.
        since: The sequence with which it began to say this. So who returns to what it said before
            does not return to the word it had then, which others know and would not ask for.
        held: What the model weighs there; None where that is what the model's own sizes say.
    """

    incarnation: int
    sequence: int
    issued_unix_s: float
    manifest_hash: str
    state: PeerState
    memory_bytes: int
    speed: SpeedProfile | None = None
    serving: LayerRange | None = None
    addresses: tuple[str, ...] = ()
    links: tuple[LinkMeasurement, ...] = ()
    epoch: int = 0
    plan_hash: bytes = b""
    may_plan: bool = True
    public_name: str = ""
    device: str = ""
    uplink_bytes_per_s: float | None = None
    downlink_bytes_per_s: float | None = None
    credentials: bytes = b""
    protocol_version: int = field(default=PROTOCOL_VERSION)
    since: int = 0
    held: HeldSizes | None = None
    paces: Annotated[tuple[PaceMeasurement, ...], at_most(MOST_PACES)] = ()

    @property
    def order(self) -> tuple[int, int]:
        """Later announcements of one peer compare greater."""
        return (self.incarnation, self.sequence)

    @property
    def routable(self) -> LayerRange | None:
        """What may be routed over; while it loads a new range, a peer goes on serving the old."""
        return self.serving if self.state in ROUTED else None

    def signed(self, identity: Identity, swarm: str) -> Signed:
        """Put it under its owner's signature."""
        return identity.sign(ANNOUNCEMENT_KIND, swarm, codec.encode(self))


def lasting(state: PeerState, serving: LayerRange | None) -> PeerState:
    """The state as it concerns others: one that loads serves what it served before, or waits."""
    if state is not PeerState.LOADING:
        return state
    return PeerState.STANDBY if serving is None else PeerState.SERVING


@remembered(OPENED_KEPT)
def open_announcement(record: Signed, swarm: str) -> Announcement:
    """Verify and read a signed announcement.

    Raises:
        SignatureError: Wrong swarm, kind or signature.
        DecodeError: The body is not an announcement.
        RecordRejected: A field is out of bounds.
    """
    record.verify(kind=ANNOUNCEMENT_KIND, swarm=swarm)
    said = codec.decode(record.body, Announcement, limit_bytes=ANNOUNCEMENT_LIMIT_BYTES)
    if min(said.incarnation, said.sequence, said.since, said.memory_bytes) < 0:
        raise RecordRejected("an announcement's counters and sizes are never negative")
    if said.held is not None:
        held = said.held
        sizes = (held.layer_bytes, held.embedding_bytes, held.head_bytes, held.kv_bytes_per_token)
        if min(sizes) < 0 or max(sizes) > LARGEST_SIZE_BYTES or held.layer_bytes < 1:
            raise RecordRejected("an announcement gives sizes that no part of a model has")
    if len(said.links) > 64 or len(said.addresses) > 16:
        raise RecordRejected("an announcement names at most 64 links and 16 addresses")
    return said


def turn_of(said: Announcement, owner: bytes) -> float:
    """Which stretch of `WORD_LIFE_S` it was issued in; 0 for no possible time.

    Stretches begin at other moments for each owner (its public key's hash).
    """
    if not isfinite(said.issued_unix_s):
        return 0.0
    return (said.issued_unix_s + int.from_bytes(owner[:2])) // WORD_LIFE_S


@remembered(OPENED_KEPT)
def content_of(record: Signed, swarm: str) -> bytes:
    """A hash of what a plan may rest on: memory, speeds, links, credentials.

    Any record with it is as good for a plan, so what changes in between without mattering to plans
    (what is served, where it is reached, a new run) leaves it as it is. The moment of issue counts
    to `WORD_LIFE_S`, for each peer from another moment on.

    Raises:
        As `open_announcement`.
    """
    said = open_announcement(record, swarm)
    owner = codec.sha256(record.public_key)
    same = replace(
        said,
        incarnation=0,
        sequence=0,
        since=0,
        issued_unix_s=turn_of(said, owner),
        epoch=0,
        plan_hash=b"",
        state=PeerState.STANDBY,
        serving=None,
        addresses=(),
        public_name="",
    )
    return codec.sha256(owner + codec.encode(same))[:CONTENT_BYTES]


@remembered(OPENED_KEPT)
def word_of(record: Signed, swarm: str) -> bytes:
    """Eight bytes that stay equal while a peer says the same, whatever its sequence.

    Those who hold a record with this word have no need of another. The moment of issue counts as
    in `content_of`, so words change that often all the same, and what was changed never comes back.

    Raises:
        As `open_announcement`.
    """
    said = open_announcement(record, swarm)
    owner = codec.sha256(record.public_key)
    same = replace(
        said,
        sequence=0,
        issued_unix_s=turn_of(said, owner),
        epoch=0,
        plan_hash=b"",
        state=lasting(said.state, said.serving),
    )
    return codec.sha256(owner + codec.encode(same))[:WORD_BYTES]


class Reading(Struct, frozen=True, gc=False):
    """What a record says, with both hashes of it."""

    announcement: Announcement
    content: bytes
    word: bytes


@remembered(OPENED_KEPT)
def reading_of(record: Signed, swarm: str) -> Reading:
    """A record as its readers need it: one look for what is asked of each that comes.

    Raises:
        As `open_announcement`.
    """
    said = open_announcement(record, swarm)
    return Reading(said, content_of(record, swarm), word_of(record, swarm))


def begun_unix_s(record: Signed, swarm: str) -> float:
    """The earliest moment at which records of this content can have been issued.

    Raises:
        As `open_announcement`.
    """
    owner = codec.sha256(record.public_key)
    turn = turn_of(open_announcement(record, swarm), owner)
    return turn * WORD_LIFE_S - int.from_bytes(owner[:2])
