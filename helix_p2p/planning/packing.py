"""A plan's bytes: each peer named once, placement and flows as columns of small numbers.

A plan goes to every peer, so its size is what a large swarm pays for planning. Peer ids are 52
characters and a flow names two; here each peer stands once (as the record it carries, or as a key),
and everything else counts into that list: about 100 bytes a peer instead of 900.

Always: the same plan gives the same bytes; bytes that are no such plan give one `DecodeError`; what
is read is bounded before it is built.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from helix_p2p import codec
from helix_p2p.cluster.announcement import CONTENT_BYTES
from helix_p2p.codec import at_most
from helix_p2p.errors import DecodeError, SignatureError
from helix_p2p.identity import PUBLIC_KEY_BYTES, Signed, peer_id_of, public_key_of
from helix_p2p.planning.plan import (
    PLAN_LIMIT_BYTES,
    Assignment,
    EdgeFlow,
    MinCut,
    Placement,
    Plan,
    Reference,
)
from helix_p2p.types import MOST_EDGES, MOST_LAYERS, MOST_PEERS, Epoch, LayerRange, PeerId

NOBODY = 0xFFFF
"""Stands for the clients' side or the sink, where a flow names no peer."""
_ASSIGNMENT = struct.Struct("<HHH")
_FLOW = struct.Struct("<HHq")
_PEER = struct.Struct("<H")
_LINK = struct.Struct("<HH")
_OTHER_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class _Packed:
    """What is signed.

    Attributes:
        keys, contents: One of each a peer that the plan refers to.
        others: Peers that are named and not announced; a valid plan has none.
        assignments: Peer, first layer, end.
        flows: From, to, thousandths of a token per second.
        cut_peers, cut_links: As in `MinCut`.
    """

    epoch: Epoch
    planner: PeerId
    previous_hash: bytes
    manifest_hash: str
    issued_unix_s: float
    announcements: Annotated[tuple[Signed, ...], at_most(MOST_PEERS)]
    keys: Annotated[bytes, at_most(MOST_PEERS * PUBLIC_KEY_BYTES)]
    contents: Annotated[bytes, at_most(MOST_PEERS * CONTENT_BYTES)]
    others: Annotated[
        tuple[Annotated[PeerId, at_most(_OTHER_CHARACTERS)], ...], at_most(MOST_PEERS)
    ]
    assignments: Annotated[bytes, at_most(MOST_PEERS * _ASSIGNMENT.size)]
    flows: Annotated[bytes, at_most(MOST_EDGES * _FLOW.size)]
    cut_peers: Annotated[bytes, at_most(MOST_PEERS * _PEER.size)]
    cut_links: Annotated[bytes, at_most(MOST_EDGES * _LINK.size)]
    cut_layer: int | None
    value_mtokens_per_s: int
    bound_mtokens_per_s: int
    solver: str
    solve_s: float
    prices: Annotated[tuple[int, ...], at_most(MOST_LAYERS)] = ()
    bound_proof: str = "prices"


def encode_plan(plan: Plan) -> bytes:
    """The canonical bytes of a plan.

    Raises:
        ValueError: A number in it is larger than any plan may say.
    """
    placement = plan.placement
    announced = plan.announced
    others = tuple(sorted(_named(placement) - frozenset(announced)))
    index: dict[PeerId | None, int] = {None: NOBODY}
    for number, peer in enumerate((*announced, *others)):
        index.setdefault(peer, number)
    cut = placement.min_cut
    try:
        packed = _Packed(
            epoch=plan.epoch,
            planner=plan.planner,
            previous_hash=plan.previous_hash,
            manifest_hash=plan.manifest_hash,
            issued_unix_s=plan.issued_unix_s,
            announcements=plan.announcements,
            keys=b"".join(public_key_of(reference.peer) for reference in plan.references),
            contents=b"".join(reference.content for reference in plan.references),
            others=others,
            assignments=_column(
                _ASSIGNMENT,
                ((index[a.peer], a.layers.start, a.layers.end) for a in placement.assignments),
            ),
            flows=_column(
                _FLOW,
                ((index[f.source], index[f.target], f.mtokens_per_s) for f in placement.flows),
            ),
            cut_peers=_column(_PEER, ((index[peer],) for peer in cut.peers)),
            cut_links=_column(_LINK, ((index[a], index[b]) for a, b in cut.links)),
            cut_layer=cut.layer,
            value_mtokens_per_s=placement.value_mtokens_per_s,
            bound_mtokens_per_s=placement.bound_mtokens_per_s,
            solver=placement.solver,
            solve_s=placement.solve_s,
            prices=placement.prices,
            bound_proof=placement.bound_proof,
        )
    except struct.error as error:
        raise ValueError(f"a number of this plan does not fit: {error}") from error
    return codec.encode(packed)


def decode_plan(data: bytes) -> Plan:
    """Read a plan; whether it is a good one is `validate`'s.

    Raises:
        DecodeError: It is none.
    """
    packed = codec.decode(data, _Packed, limit_bytes=PLAN_LIMIT_BYTES)
    try:
        carried = tuple(record.signer for record in packed.announcements)
        references = _references(packed)
        names = (*carried, *(reference.peer for reference in references), *packed.others)
        placement = _placement(packed, names)
    except (struct.error, IndexError, SignatureError, ValueError) as error:
        raise DecodeError(f"Plan: {error}") from error
    return Plan(
        epoch=packed.epoch,
        planner=packed.planner,
        previous_hash=packed.previous_hash,
        manifest_hash=packed.manifest_hash,
        issued_unix_s=packed.issued_unix_s,
        announcements=packed.announcements,
        placement=placement,
        references=references,
    )


def _references(packed: _Packed) -> tuple[Reference, ...]:
    keys = _rows(packed.keys, PUBLIC_KEY_BYTES)
    contents = _rows(packed.contents, CONTENT_BYTES)
    return tuple(
        Reference(peer_id_of(key), content) for key, content in zip(keys, contents, strict=True)
    )


def _placement(packed: _Packed, names: Sequence[PeerId]) -> Placement:
    def end(number: int) -> PeerId | None:
        return None if number == NOBODY else names[number]

    return Placement(
        assignments=tuple(
            Assignment(names[peer], LayerRange(start, stop))
            for peer, start, stop in _ASSIGNMENT.iter_unpack(packed.assignments)
        ),
        flows=tuple(
            EdgeFlow(end(source), end(target), amount)
            for source, target, amount in _FLOW.iter_unpack(packed.flows)
        ),
        value_mtokens_per_s=packed.value_mtokens_per_s,
        bound_mtokens_per_s=packed.bound_mtokens_per_s,
        min_cut=MinCut(
            tuple(names[peer] for (peer,) in _PEER.iter_unpack(packed.cut_peers)),
            tuple((end(a), end(b)) for a, b in _LINK.iter_unpack(packed.cut_links)),
            packed.cut_layer,
        ),
        solver=packed.solver,
        solve_s=packed.solve_s,
        prices=packed.prices,
        bound_proof=packed.bound_proof,
    )


def _named(placement: Placement) -> frozenset[PeerId]:
    """Every peer that a placement speaks of."""
    cut = placement.min_cut
    ends = [end for flow in placement.flows for end in (flow.source, flow.target)]
    ends += [end for link in cut.links for end in link]
    held = [assignment.peer for assignment in placement.assignments]
    return frozenset([*held, *cut.peers, *(end for end in ends if end is not None)])


def _column(row: struct.Struct, values: Iterable[tuple[int, ...]]) -> bytes:
    return b"".join(row.pack(*value) for value in values)


def _rows(data: bytes, size: int) -> list[bytes]:
    if len(data) % size:
        raise DecodeError(f"a column of {len(data)} bytes, in rows of {size}")
    return [data[at : at + size] for at in range(0, len(data), size)]
