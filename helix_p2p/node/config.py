"""What a person decides about a node; everything else is measured or planned.

Frozen and validated where it is made (the applications' command lines), so that the node never
meets an unusable value.
"""

from dataclasses import dataclass, field
from pathlib import Path

from helix_p2p.membership.timing import MembershipTiming

MOVE_WITHIN_S = 900.0
"""A third of a cell that moves within this is what a swarm outlives every day."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """How a node is reached.

    Attributes:
        host: Address to listen on.
        port: TCP port, 0 for a free one.
        announce: Multiaddrs to tell others instead of what is found.
        bootstrap: Multiaddrs of bootstrap nodes or members, with `/p2p/…`.
        behind_nat: Use relays, hole punching and port mapping; off on loopback.
    """

    host: str = "0.0.0.0"  # noqa: S104 — a peer is meant to be reached
    port: int = 0
    announce: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()
    behind_nat: bool = True


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """What bounds the queues of a peer.

    Attributes:
        waiting_sessions: Generations that may wait at this entry peer for KV room.
        waiting_s: Longest wait before a typed refusal.
        prefill_chunk_tokens: Prompt tokens per prefill step.
        decode_batch: Sessions per decode step.
        token_deadline_s: A pipeline that gives no token for so long is rebuilt.
        session_idle_s: A stage frees a session that heard nothing for so long.
        drain_s: How long a leaving peer lets its sessions finish.
    """

    waiting_sessions: int = 256
    waiting_s: float = 30.0
    prefill_chunk_tokens: int = 256
    decode_batch: int = 64
    token_deadline_s: float = 20.0
    session_idle_s: float = 60.0
    drain_s: float = 60.0


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """A peer that lends its device.

    Attributes:
        state_dir: Identity, high-water mark, cached peers.
        network: How it is reached.
        invite: The pasted invite line; None in an open swarm.
        model: Folder or `org/name`; None takes the invite's.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto`, `float32`, `bfloat16`, `float16`.
        quantisation: `none`, `int8`, `nf4`: how the layers' matrices are held.
        graphs: Record decode steps and replay them, where the device can.
        memory_bytes: For weights and KV cache; None takes what the device has free.
        uplink_bytes_per_s: A limit that the person set; None measures.
        public_name: For dashboards.
        may_plan: Whether to stand for election.
        move_within_s: When the number of cells changes, those who have to move do so within this,
            each at a moment by chance.
        torch_threads: None leaves torch's default.
        limits: Queues and deadlines.
        timing: Membership's clockwork.
    """

    state_dir: Path
    network: NetworkConfig = field(default_factory=NetworkConfig)
    invite: str | None = None
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantisation: str = "none"
    graphs: bool = False
    memory_bytes: int | None = None
    uplink_bytes_per_s: float | None = None
    public_name: str = ""
    may_plan: bool = True
    move_within_s: float = MOVE_WITHIN_S
    torch_threads: int | None = None
    limits: ServingLimits = field(default_factory=ServingLimits)
    timing: MembershipTiming = field(default_factory=MembershipTiming)


@dataclass(frozen=True, slots=True)
class BootstrapConfig:
    """A way into the swarm that holds no layers.

    Attributes:
        state_dir: Identity, swarm root key, high-water mark.
        network: How it is reached; `bootstrap` names other bootstrap nodes, if any.
        model: Folder or `org/name` that the swarm serves.
        open_swarm: Let anybody in (and say that it is untrusted).
        invite_days: How long the printed invite holds.
        timing: Membership's clockwork.
    """

    state_dir: Path
    model: str
    network: NetworkConfig = field(default_factory=NetworkConfig)
    open_swarm: bool = False
    invite_days: float = 30.0
    timing: MembershipTiming = field(default_factory=MembershipTiming)
