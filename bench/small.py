"""Random small swarms, announced and signed, for checks against other ways to the same number."""

from itertools import permutations
from random import Random

import networkx as nx

from helix_p2p.cluster.announcement import Announcement, LinkMeasurement, PeerState
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.cluster.snapshot import Snapshot, snapshot_of
from helix_p2p.identity import Identity, Signed
from helix_p2p.planning.capacity import Capacities
from helix_p2p.planning.coverage import Layout
from helix_p2p.planning.flow import link_mtokens_per_s
from helix_p2p.planning.plan import Placement, Plan, SignedPlan
from helix_p2p.planning.signed import open_plan, sign_plan
from helix_p2p.planning.validate import PlanRules, slot_of
from helix_p2p.types import EPOCHS_PER_SLOT, Epoch

SWARM = "bench"
NOW_UNIX_S = 1_700_000_000.0


def small_model(layers: int) -> ModelSpec:
    """A model whose layers weigh a gigabyte."""
    return ModelSpec(
        name="small",
        manifest_hash="00" * 32,
        layers=layers,
        d_model=1024,
        vocab_size=1000,
        context_tokens=2048,
        layer_bytes=10**9,
        embedding_bytes=0,
        head_bytes=0,
        kv_bytes_per_token=4096,
        activation_bytes=2048,
    )


class SmallSwarm:
    """A few peers with identities, their announcements, and the snapshot they make.

    Args:
        peers: How many.
        layers: Of the model.
        seed: Of all chance.
        links: Whether every pair has a measured bandwidth.
        lines: Whether peers have limited uplinks and downlinks. Helix's MILP knows T(k) alone,
            while an uplink does not bind the last stage, nor a downlink the first.
    """

    def __init__(
        self, peers: int, layers: int, seed: int, *, links: bool, lines: bool = True
    ) -> None:
        rng = Random(seed)
        self.model = small_model(layers)
        self.identities = [Identity(rng.randbytes(32)) for _ in range(peers)]
        said = []
        for identity in self.identities:
            step_s = rng.uniform(0.002, 0.02)
            measured = tuple(
                LinkMeasurement(other.peer_id, 0.02, 2048.0 * rng.randint(5, 400))
                for other in self.identities
                if links and other is not identity
            )
            announcement = Announcement(
                incarnation=1,
                sequence=1,
                issued_unix_s=NOW_UNIX_S,
                manifest_hash=self.model.manifest_hash,
                state=PeerState.SERVING,
                memory_bytes=round(rng.uniform(1.5, layers * 0.8) * 1e9),
                speed=SpeedProfile(
                    ((1, step_s), (256, 20 * step_s)), ((1, step_s), (8, 3 * step_s))
                ),
                uplink_bytes_per_s=2048.0 * rng.randint(50, 2000) if lines else None,
                downlink_bytes_per_s=2048.0 * rng.randint(50, 2000) if lines else None,
                links=measured,
            )
            said.append((identity, announcement))
        self.records: tuple[Signed, ...] = tuple(
            announcement.signed(identity, SWARM) for identity, announcement in said
        )
        self.snapshot: Snapshot = snapshot_of(
            self.model, ((identity.peer_id, announcement) for identity, announcement in said)
        )
        self.rules = PlanRules(model=self.model, swarm=SWARM)

    def signed(self, placement: Placement) -> SignedPlan:
        """The placement as an epoch of this swarm."""
        planner = self.identities[0]
        plan = Plan(
            epoch=Epoch(EPOCHS_PER_SLOT * slot_of(NOW_UNIX_S)),
            planner=planner.peer_id,
            previous_hash=b"",
            manifest_hash=self.model.manifest_hash,
            issued_unix_s=NOW_UNIX_S,
            announcements=self.records,
            placement=placement,
        )
        return open_plan(sign_plan(plan, planner, SWARM), SWARM)


def networkx_flow(snapshot: Snapshot, capacities: Capacities, layout: Layout) -> tuple[int, int]:
    """Max flow and min cut of a layout by networkx, from the definition."""
    graph = nx.DiGraph()
    graph.add_nodes_from(("in", "out"))
    held = [i for i in range(len(capacities.peers)) if layout.ends[i] > layout.starts[i]]
    own = capacities.of_layout(layout.starts, layout.ends)
    for i in held:
        graph.add_edge((i, 0), (i, 1), capacity=int(own[i]))
        if layout.starts[i] == 0:
            graph.add_edge("in", (i, 0))
        if layout.ends[i] == capacities.layers:
            graph.add_edge((i, 1), "out")
    for i, j in permutations(held, 2):
        link = snapshot.link(capacities.peers[i], capacities.peers[j])
        if link is not None and layout.starts[j] <= layout.ends[i] < layout.ends[j]:
            width = link_mtokens_per_s(link.bandwidth_bytes_per_s, snapshot.model.activation_bytes)
            graph.add_edge((i, 1), (j, 0), capacity=width)
    return (
        int(nx.maximum_flow_value(graph, "in", "out")),
        int(nx.minimum_cut_value(graph, "in", "out")),
    )
