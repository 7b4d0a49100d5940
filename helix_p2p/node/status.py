"""How a node describes itself and the swarm as it sees it: to `status`, to dashboards, to tests.

Always: everything is plain data in SI units, so that it is JSON as it stands; what is not known is
None, never a guess. A field once named keeps its meaning; new ones have defaults.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from helix_p2p.errors import DecodeError
from helix_p2p.planning.plan import SignedPlan

STATUS_LIMIT_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LayerStatus:
    """A peer and a layer range `[start, end)`."""

    peer: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class FlowStatus:
    """Planned traffic over one edge; None stands for the clients' side or the sink."""

    source: str | None
    target: str | None
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """The plan that this node follows.

    Attributes:
        epoch: Its version.
        hash: Hex SHA-256.
        planner: Who made it.
        issued_unix_s: The planner's clock.
        tokens_per_s: Max flow.
        bound_tokens_per_s: Proven upper bound.
        gap: (bound - flow) / bound.
        solver: What found it.
        solve_s: How long that took.
        placement: Who is to hold what, in the order of layers.
        flows: Every edge that carries flow.
        bottleneck: The min cut in words.
    """

    epoch: int
    hash: str
    planner: str
    issued_unix_s: float
    tokens_per_s: float
    bound_tokens_per_s: float
    gap: float
    solver: str
    solve_s: float
    placement: tuple[LayerStatus, ...]
    flows: tuple[FlowStatus, ...]
    bottleneck: str = ""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """Another peer as this node knows it (this node itself included, where it is a peer).

    Attributes:
        peer: Who.
        state: standby, loading, serving, draining.
        name: What it wants to be called.
        device: Hardware.
        memory_bytes: For weights and KV cache.
        serving: Layers `[start, end)` it serves now.
        epoch: Highest plan it adopted.
        rtt_s: Measured from here.
        age_s: Since its sequence last rose.
    """

    peer: str
    state: str
    name: str = ""
    device: str = ""
    memory_bytes: int = 0
    serving: tuple[int, int] | None = None
    epoch: int = 0
    rtt_s: float | None = None
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class CellStatus:
    """Another cell, as the DHT names its members.

    Attributes:
        cell: Which.
        peers: How many lend a device.
        serving: How many of them serve now.
        memory_bytes: Of all of them.
        age_s: Since it was looked into.
    """

    cell: int
    peers: int
    serving: int
    memory_bytes: int
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node.

    Attributes:
        role: `peer` or `bootstrap`.
        peer: Its id.
        swarm: Swarm id.
        trusted: False in an open swarm.
        model: What people call the model.
        manifest_hash: Which weights exactly.
        layers: Decoder layers of the model.
        state: A peer's state; `running` for a bootstrap node.
        detail: Why, in words, where there is more to say.
        addresses: Where it is reached.
        device: Hardware.
        dtype: Of weights and activations.
        memory_bytes: For weights and KV cache.
        holds: Layers `[start, end)` that are loaded.
        to_hold: What the plan says.
        loaded_layers: While loading: how many of `to_hold` are there.
        entry_sessions: Generations that this node runs as their entry peer.
        stage_sessions: Sessions with a KV reservation here.
        waiting_sessions: Generations that wait for room.
        kv_used: Share of the KV cache that is reserved, 0..1.
        tokens_delivered: To clients, since the start.
        failovers: Pipelines rebuilt, since the start.
        uptime_s: Since the start.
        planner: Who holds the lease, as far as this node knows.
        plan: The plan it follows.
        members: Peers that it holds fresh.
        cell: Which cell of the swarm it is in.
        cells: How many there are.
        elsewhere: The other cells; where a bootstrap node looks into them.
    """

    role: str
    peer: str
    swarm: str
    trusted: bool
    model: str
    manifest_hash: str
    layers: int
    state: str
    detail: str = ""
    addresses: tuple[str, ...] = ()
    device: str = ""
    dtype: str = ""
    memory_bytes: int = 0
    holds: tuple[int, int] | None = None
    to_hold: tuple[int, int] | None = None
    loaded_layers: int = 0
    entry_sessions: int = 0
    stage_sessions: int = 0
    waiting_sessions: int = 0
    kv_used: float = 0.0
    tokens_delivered: int = 0
    failovers: int = 0
    uptime_s: float = 0.0
    planner: str | None = None
    plan: PlanStatus | None = None
    members: tuple[MemberStatus, ...] = ()
    cell: int = 0
    cells: int = 1
    elsewhere: tuple[CellStatus, ...] = ()


def plan_status(signed: SignedPlan) -> PlanStatus:
    """A plan as people look at it."""
    plan, placement = signed.plan, signed.plan.placement
    held = sorted(placement.assignments, key=lambda it: (it.layers, it.peer))
    return PlanStatus(
        epoch=plan.epoch,
        hash=signed.hash.hex(),
        planner=plan.planner,
        issued_unix_s=plan.issued_unix_s,
        tokens_per_s=placement.value_mtokens_per_s / 1000,
        bound_tokens_per_s=placement.bound_mtokens_per_s / 1000,
        gap=placement.gap,
        solver=placement.solver,
        solve_s=placement.solve_s,
        placement=tuple(LayerStatus(it.peer, it.layers.start, it.layers.end) for it in held),
        flows=tuple(
            FlowStatus(it.source, it.target, it.mtokens_per_s / 1000) for it in placement.flows
        ),
        bottleneck=_bottleneck(signed),
    )


def encode_status(status: NodeStatus) -> bytes:
    """As one line of JSON."""
    return msgspec.json.encode(status)


def decode_status(data: bytes | bytearray | memoryview) -> NodeStatus:
    """Read another node's status.

    Raises:
        DecodeError: Too long, not JSON, or not a status.
    """
    if len(data) > STATUS_LIMIT_BYTES:
        raise DecodeError(f"a status of {len(data)} bytes, at most {STATUS_LIMIT_BYTES} are taken")
    try:
        return msgspec.json.decode(data, type=NodeStatus)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError(f"not a node's status: {error}") from error


def status_object(data: bytes | bytearray) -> dict[str, Any]:
    """Read another node's status as the JSON object that it is, fields of other versions included.

    Raises:
        DecodeError: Too long, or not a JSON object.
    """
    if len(data) > STATUS_LIMIT_BYTES:
        raise DecodeError(f"a status of {len(data)} bytes, at most {STATUS_LIMIT_BYTES} are taken")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError(f"not a node's status: {error}") from error


def _bottleneck(signed: SignedPlan) -> str:
    cut = signed.plan.placement.min_cut
    if cut.links:
        return "links " + ", ".join(
            f"{source or 'clients'} → {target or 'sink'}" for source, target in cut.links
        )
    if cut.layer is not None:
        holders = "peer" if len(cut.peers) == 1 else "peers"
        return f"layer {cut.layer}, held by {len(cut.peers)} {holders}"
    return ""
