"""What members tell each other about the swarm, besides the DHT.

A `Ping` every few seconds carries the highest plan that the sender adopted; whoever knows a higher
one answers with its hash and the other pulls it. Announcements travel the same way, so that a
change is known in seconds, and the DHT stays what it is good for: the meeting place.

Always: what is passed on for others (announcements, plans, leases, proofs, revocations) is under
its author's signature; what is only said (`Ping.epoch`, `PeerGone`) is a hint that the receiver
checks for itself before it acts.

What is said all the time is a msgspec struct, for the same reason as in `session.messages`.
"""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Struct

from helix_p2p.codec import at_most
from helix_p2p.identity import Signed
from helix_p2p.types import MOST_PEERS, PeerId

Rumours = Annotated[tuple[Signed, ...], at_most(64)]
Words = Annotated[tuple[bytes, ...], at_most(MOST_PEERS)]


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame on every stream, from both ends: who I am and what I am part of.

    Attributes:
        protocol_version: Versions must be equal.
        swarm: Swarm id.
        manifest_hash: The model; empty for a client or bootstrap node that takes any.
        credentials: Encoded certificate chain; empty in an open swarm.
        nonce: 16 fresh bytes.
    """

    protocol_version: int
    swarm: str
    manifest_hash: str
    credentials: bytes
    nonce: bytes


class Ping(Struct, frozen=True, gc=False):
    """I live; this is the highest plan I adopted and my latest announcement.

    Attributes:
        epoch: Of the highest plan that the sender adopted; 0 for none.
        plan_hash: Its hash; empty for none.
        announcement: The sender's own, unless the receiver has shown that it holds it.
        number: Comes back in the Pong, so that the round trip can be measured.
        unix_s: The sender's wall clock, to find skewed clocks; 0 when not said.
        rumours: Announcements of others that changed lately, at most 8; in small swarms.
        lease: The planner's latest signed `Lease`, passed on to who does not show that it has it.
        seen: The receiver's word (`announcement.word_of`) that the sender holds; empty asks for it
            under a fresh sequence.
        news: Words of others that changed lately, and a few in turn; who lacks one asks for it.
        beat: Number of the latest lease that the sender holds; 0 for none.
        revocations: Serial of the root's list that the sender holds; -1 for none. Whoever holds a
            newer one sends it.
        gone: The last words of members that the sender lost lately; in large swarms.
    """

    epoch: int
    plan_hash: bytes
    announcement: Signed | None = None
    number: int = 0
    unix_s: float = 0.0
    rumours: Rumours = ()
    lease: Signed | None = None
    seen: bytes = b""
    news: Words = ()
    beat: int = 0
    revocations: int = -1
    gone: Words = ()


class Pong(Struct, frozen=True, gc=False):
    """The answer, with the other's own view; fields as in `Ping`.

    Attributes:
        asks: Words of the ping whose records the sender lacks; answered as `GetMembers` is.
    """

    epoch: int
    plan_hash: bytes
    announcement: Signed | None = None
    number: int = 0
    unix_s: float = 0.0
    rumours: Rumours = ()
    lease: Signed | None = None
    seen: bytes = b""
    news: Words = ()
    beat: int = 0
    revocations: int = -1
    gone: Words = ()
    asks: Words = ()


class GetPlan(Struct, frozen=True, gc=False):
    """Ask for a plan by hash, or for the highest adopted one with an empty hash."""

    hash: bytes = b""


class PlanReply(Struct, frozen=True, gc=False):
    """The plan, or None when it is not known here."""

    plan: Signed | None


class GetMembers(Struct, frozen=True, gc=False):
    """Ask for the announcements that the other holds: those of these words, or all for none.

    Attributes:
        words: `announcement.word_of` each.
        cell: Asked as a question: of this cell, which the other looks up if it is not its own;
            None for the other's own.
    """

    words: Words = ()
    cell: int | None = None


class MembersReply(Struct, frozen=True, gc=False):
    """Fresh announcements."""

    announcements: Annotated[tuple[Signed, ...], at_most(MOST_PEERS)]


@dataclass(frozen=True, slots=True)
class Lease:
    """Body of a signed beat (kind `lease`): I plan, and this is the plan I build on.

    From the planner of the plan `plan_hash` it renews the lease; from a candidate it says that it
    has stepped in and is working on the next plan.

    Attributes:
        epoch: Of the plan built on; 0 before the first.
        plan_hash: Its hash; empty before the first.
        number: Rises with every beat of one signer; a repeated beat renews nothing.
    """

    epoch: int
    plan_hash: bytes
    number: int


class Beat(Struct, frozen=True, gc=False):
    """The planner renews its lease; `record` is a signed `Lease`."""

    record: Signed


class PushPlan(Struct, frozen=True, gc=False):
    """A new plan, unasked: from the planner to its neighbours."""

    plan: Signed


@dataclass(frozen=True, slots=True)
class PushProof:
    """Two different plans under one key and epoch: proof that their signer equivocates."""

    first: Signed
    second: Signed


@dataclass(frozen=True, slots=True)
class PushRevocations:
    """The root's signed list of revocations."""

    record: Signed


NOT_ASKED = 2**62
"""The serial of who has no use for a word."""


@dataclass(frozen=True, slots=True)
class GetRootWords:
    """Ask for what the swarm's root said last, if that is later than what the asker holds.

    Attributes:
        cells: Serial of the `CellCount` that is held; -1 for none, `NOT_ASKED` for no answer.
        revocations: Likewise of the list of revocations.
    """

    cells: int = -1
    revocations: int = -1


@dataclass(frozen=True, slots=True)
class RootWords:
    """The root's signed words; None for what is no later, or not known here."""

    cells: Signed | None = None
    revocations: Signed | None = None


@dataclass(frozen=True, slots=True)
class GetFile:
    """Ask for one of the model's small files (tokenizer, chat template, configuration)."""

    name: str


@dataclass(frozen=True, slots=True)
class FileReply:
    """The file is the frame's payload; `found` is False when it is not shared."""

    name: str
    found: bool


@dataclass(frozen=True, slots=True)
class GetStatus:
    """Ask a peer how it is; answered as JSON in the frame's payload."""


@dataclass(frozen=True, slots=True)
class StatusReply:
    """JSON in the payload; see node/status.py."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Measure the way: the other answers with `size_bytes` of payload."""

    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ProbeReply:
    """The payload is what was asked for."""

    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """A request failed; see `errors.from_wire`."""

    code: str
    message: str
    retry_after_s: float | None = None


class PeerGone(Struct, frozen=True, gc=False):
    """I am leaving, or `peer` is gone as far as I see."""

    peer: PeerId
    leaving: bool


class Heartbeat(Struct, frozen=True, gc=False):
    """On a link between peers, or a client's stream: I live. Both ends send it and use it up.

    Attributes:
        number: Asks for an echo, so that the round trip is measured; 0 asks for nothing.
        echo: The number that this answers; 0 when it answers none.
    """

    number: int = 0
    echo: int = 0
