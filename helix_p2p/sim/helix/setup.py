"""What Helix mode simulates: stages with their time tables, links, flows.

Made from the artifact's own placements, or from a snapshot with a placement of ours, so that both
are judged by the same rules.

Always: layers are covered by the stages, links join stages that may follow each other, the client
side (the artifact's coordinator) is None.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from helix_p2p.cluster.profile import PeerProfile, SpeedProfile, interpolate
from helix_p2p.cluster.reference import (
    CLUSTERS,
    NIC_BYTES_PER_S,
    TOKEN_ID_BYTES,
    batch_limits,
    client_links,
    reference_model,
    reference_snapshot,
    reference_speed,
)
from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.errors import ConfigError
from helix_p2p.planning.capacity import MTOKENS
from helix_p2p.planning.plan import Placement
from helix_p2p.types import LayerRange, PeerId

LONGEST_PROMPT_TOKENS = 2048
"""Of the trace; a batch takes as many prompt tokens as its prompts could have at most."""

TABLES_KEPT = 256
"""One for each kind of machine; thousands of peers are of few kinds."""

LARGEST_BATCH = 256
"""Of decoding requests on a peer whose batches were never measured."""

DISK_BYTES_PER_S = 1e9
_PLANNED_LAYER_BYTES = {"30b": 1.0e9, "70b": 1.53e9}
"""What the artifact's simulator loads per layer before its clock starts."""


@dataclass(frozen=True, slots=True)
class StageSetup:
    """One peer's part.

    Attributes:
        peer: Its name.
        layers: What it holds.
        kv_layer_tokens: Room for tokens times layers.
        prefill_s: Seconds per layer by prompt tokens in the batch.
        decode_s: Seconds per layer by decoding requests in the batch.
        most_prompts: In one batch.
        most_decodes: In one batch.
    """

    peer: PeerId
    layers: LayerRange
    kv_layer_tokens: int
    prefill_s: tuple[float, ...]
    decode_s: tuple[float, ...]
    most_prompts: int
    most_decodes: int


@dataclass(frozen=True, slots=True)
class LinkSetup:
    """One directed way; None is the client side."""

    source: PeerId | None
    target: PeerId | None
    latency_s: float
    bandwidth_bytes_per_s: float
    flow_tokens_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class HelixSetup:
    """A cluster with a placement, ready to be replayed.

    Attributes:
        layers: Of the model.
        activation_bytes: Of one token between stages.
        stages: In the cluster's order.
        links: Every way that may be taken.
        start_s: When the weights are loaded and requests begin.
    """

    layers: int
    activation_bytes: int
    stages: tuple[StageSetup, ...]
    links: tuple[LinkSetup, ...]
    start_s: float = 0.0

    @property
    def max_flow_tokens_per_s(self) -> float:
        """Out of the client side."""
        return sum(link.flow_tokens_per_s for link in self.links if link.source is None)


def published_setup(case: str) -> HelixSetup:
    """A placement that the artifact was run with.

    Args:
        case: `cluster/model/name`, e.g. `single24/70b/ilp`.

    Raises:
        ConfigError: There is no such case.
    """
    placements = reference_runs()["placements"]
    if case not in placements:
        raise ConfigError(f"{case!r} is none of {', '.join(placements)}")
    cluster, model, _ = case.split("/")
    said = placements[case]
    names = reference_names(cluster)
    stages = tuple(
        _reference_stage(cluster, model, names[index], LayerRange(start, end), kv)
        for index, start, end, kv in said["nodes"]
    )

    def named(index: int | None) -> PeerId | None:
        return None if index is None else names[index]

    flows = {(named(a), named(b)): float(flow) for a, b, flow in said["flow"]}
    pairs = [(named(a), named(b)) for a, b in said["links"]]
    return HelixSetup(
        layers=reference_model(model).layers,
        activation_bytes=reference_model(model).activation_bytes - TOKEN_ID_BYTES,
        stages=stages,
        links=_reference_links(cluster, model, pairs, flows),
        start_s=_loaded_s(model, stages),
    )


def planned_setup(cluster: str, model: str, placement: Placement) -> HelixSetup:
    """A placement of ours on one of the paper's clusters, by the artifact's tables.

    Raises:
        ConfigError: No such cluster or model.
    """
    kv = _kv_tables(cluster, model)
    kinds = {p.peer: p.kind for p in reference_snapshot(cluster, model).peers}
    stages = tuple(
        _reference_stage(cluster, model, a.peer, a.layers, kv[kinds[a.peer]][len(a.layers) - 1])
        for a in placement.assignments
    )
    flows = {(f.source, f.target): f.mtokens_per_s / MTOKENS for f in placement.flows}
    return HelixSetup(
        layers=reference_model(model).layers,
        activation_bytes=reference_model(model).activation_bytes - TOKEN_ID_BYTES,
        stages=stages,
        links=_reference_links(cluster, model, legal_links(stages, flows), flows),
        start_s=_loaded_s(model, stages),
    )


def snapshot_setup(
    snapshot: Snapshot, placement: Placement, *, most_prompts: int = 3
) -> HelixSetup:
    """A placement of ours over any snapshot.

    A peer of which only T(k) is known takes 1 / (k · T(k)) seconds per layer and token, whatever
    the batch.

    Raises:
        ConfigError: A peer holds more layers than its T(k) knows.
    """
    model = snapshot.model
    profiles = {p.peer: p for p in snapshot.peers}
    stages = []
    for assignment in placement.assignments:
        profile = profiles[assignment.peer]
        speed = profile.speed or _speed_of(profile, len(assignment.layers))
        prefill, decode = time_tables(speed, most_prompts)
        stages.append(
            StageSetup(
                assignment.peer,
                assignment.layers,
                int(profile.room_tokens(model, assignment.layers)),
                prefill,
                decode,
                most_prompts,
                min(len(decode) - 1, int(speed.decode[-1][0])),
            )
        )
    flows = {(f.source, f.target): f.mtokens_per_s / MTOKENS for f in placement.flows}
    into, out = _sums(flows)
    links = []
    for source, target in legal_links(stages, flows):
        link = _snapshot_link(snapshot, source, target)
        if link is None:
            continue
        flow = flows.get((source, target), 0.0)
        widths = [link.bandwidth_bytes_per_s or NIC_BYTES_PER_S]
        # As much of both ends' network as the way has of their flow.
        if source is not None and target is not None and flow > 0:
            up, down = profiles[source].uplink_bytes_per_s, profiles[target].downlink_bytes_per_s
            widths += [] if up is None else [up * flow / out[source]]
            widths += [] if down is None else [down * flow / into[target]]
        links.append(LinkSetup(source, target, link.latency_s, min(widths), flow))
    return HelixSetup(model.layers, model.activation_bytes, tuple(stages), tuple(links))


def _sums(
    flows: Mapping[tuple[PeerId | None, PeerId | None], float],
) -> tuple[dict[PeerId, float], dict[PeerId, float]]:
    """Flow between peers, into and out of each."""
    into: dict[PeerId, float] = {}
    out: dict[PeerId, float] = {}
    for (source, target), flow in flows.items():
        if source is not None and target is not None:
            out[source] = out.get(source, 0.0) + flow
            into[target] = into.get(target, 0.0) + flow
    return into, out


def _snapshot_link(snapshot: Snapshot, source: PeerId | None, target: PeerId | None) -> Link | None:
    if source is None or target is None:
        return snapshot.default_link or Link(0.0)
    return snapshot.link(source, target)


def legal_links(
    stages: Iterable[StageSetup], flows: Mapping[tuple[PeerId | None, PeerId | None], float]
) -> list[tuple[PeerId | None, PeerId | None]]:
    """Every way that the layers allow, those of the client side first.

    Between stages only ways that carry flow are taken where there is any flow at all, and besides
    them those where one range ends exactly where the next begins. No way leads to a stage that has
    none onward (Petals' rule leaves such), where a scheduler that sees one hop would strand.
    """
    held = list(stages)
    last = max(stage.layers.end for stage in held)
    ways: list[tuple[PeerId | None, PeerId | None]] = []
    ways += [(None, stage.peer) for stage in held if stage.layers.start == 0]
    ways += [(stage.peer, None) for stage in held if stage.layers.end == last]
    ways += [
        (a.peer, b.peer)
        for a in held
        for b in held
        if a.layers.end == b.layers.start or flows.get((a.peer, b.peer), 0.0) > 0
    ]
    while dead := {target for _, target in ways} - {source for source, _ in ways} - {None}:
        ways = [way for way in ways if way[1] not in dead]
    return ways


def reference_names(cluster: str) -> tuple[PeerId, ...]:
    """The peers of a reference cluster in the artifact's order.

    Raises:
        ConfigError: No such cluster.
    """
    if cluster not in CLUSTERS:
        raise ConfigError(f"cluster {cluster!r} is not one of {', '.join(CLUSTERS)}")
    return tuple(client_links(cluster))


def _reference_stage(
    cluster: str, model: str, peer: PeerId, layers: LayerRange, kv_layer_tokens: int
) -> StageSetup:
    kind = _kinds(cluster, model)[peer]
    most = len(_kv_tables(cluster, model)[kind])
    prompts, decodes = batch_limits(cluster, model, kind, min(len(layers), most))
    prefill, decode = time_tables(reference_speed(model, kind), prompts)
    return StageSetup(peer, layers, kv_layer_tokens, prefill, decode, prompts, decodes)


def _speed_of(profile: PeerProfile, layers: int) -> SpeedProfile:
    if layers > len(profile.tokens_per_s) or not profile.tokens_per_s[layers - 1] > 0:
        raise ConfigError(f"it is not known how fast {profile.peer} is with {layers} layers")
    per_token_s = 1.0 / (layers * profile.tokens_per_s[layers - 1])
    points = tuple((n, n * per_token_s) for n in (1, LARGEST_BATCH))
    return SpeedProfile(prefill=points, decode=points)


@lru_cache(maxsize=TABLES_KEPT)
def time_tables(
    speed: SpeedProfile, most_prompts: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds per layer for each whole number of tokens, 0 for none."""
    tokens = np.arange(most_prompts * LONGEST_PROMPT_TOKENS + 1)
    prefill = np.interp(tokens, *_points(_far(speed.prefill, tokens[-1])))
    requests = np.arange(max(512, speed.decode[-1][0]) + 1)
    decode = np.interp(requests, *_points(_far(speed.decode, requests[-1])))
    return tuple(prefill.tolist()), tuple(decode.tolist())


def _far(points: tuple[tuple[int, float], ...], end: int) -> tuple[tuple[int, float], ...]:
    """Go on along the last segment, as `SpeedProfile` does beyond its last point."""
    if points[-1][0] >= end:
        return points
    return (*points, (int(end), interpolate(points, float(end))))


def _points(points: tuple[tuple[int, float], ...]) -> tuple[list[float], list[float]]:
    at, seconds = zip(*points, strict=True)
    return [0.0, *map(float, at)], [0.0, *seconds]


def _reference_links(
    cluster: str,
    model: str,
    pairs: Iterable[tuple[PeerId | None, PeerId | None]],
    flows: Mapping[tuple[PeerId | None, PeerId | None], float],
) -> tuple[LinkSetup, ...]:
    snapshot, ends = reference_snapshot(cluster, model), client_links(cluster)
    links = []
    for source, target in pairs:
        if source is None:
            assert target is not None, "the client side leads to a stage"
            link: Link | None = ends[target][0]
        elif target is None:
            link = ends[source][1]
        else:
            link = snapshot.link(source, target)
        assert link is not None, "the reference clusters are complete graphs"
        assert link.bandwidth_bytes_per_s is not None, "and every link was measured"
        flow = flows.get((source, target), 0.0)
        links.append(LinkSetup(source, target, link.latency_s, link.bandwidth_bytes_per_s, flow))
    return tuple(links)


def _loaded_s(model: str, stages: Iterable[StageSetup]) -> float:
    longest = max(len(stage.layers) for stage in stages)
    return -(-longest * _PLANNED_LAYER_BYTES[model] // DISK_BYTES_PER_S) + 1


@cache
def _kinds(cluster: str, model: str) -> Mapping[PeerId, str]:
    return {p.peer: p.kind for p in reference_snapshot(cluster, model).peers}


@cache
def _kv_tables(cluster: str, model: str) -> Mapping[str, list[int]]:
    text = files("helix_p2p.cluster").joinpath("reference_data", "throughput.json").read_text()
    mix = {"geo24": "single24"}.get(cluster, cluster)
    table = json.loads(text)[model][mix]
    return {kind: curve["kv_layer_tokens"] for kind, curve in table.items()}


@cache
def reference_runs() -> Mapping[str, Any]:
    """The artifact's placements and the 43 results, as in `reference_data/README.md`."""
    text = files("helix_p2p.sim").joinpath("reference_data", "runs.json").read_text("utf-8")
    runs: Mapping[str, Any] = json.loads(text)
    return runs
