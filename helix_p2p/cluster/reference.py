"""The clusters of the Helix paper as snapshots, so that planners can be compared with its results.

Everything here is read from `reference_data/` (its README names source and licence). Peers are
called `00-l4`, `01-t4`, …: place in the published cluster and kind.

Always: a reference snapshot is Helix's own problem, so T(k) is the artifact's under the same
cluster mix, embedding and head weigh nothing, and links are the published ones.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import PeerProfile, SpeedProfile
from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.errors import ConfigError
from helix_p2p.types import LayerRange, PeerId

CLUSTERS = ("single24", "geo24", "high42", "quality10")
MODELS = ("30b", "70b")
NIC_BYTES_PER_S = 10e9
"""Every machine's network card in the artifact."""

TOKEN_ID_BYTES = 2
"""The artifact sends a token's id along with its hidden state: only so do its link-bound published
flows come out exactly (geo24 70B, even split: 10.1 MB/s / 16,386 B = 616.38 tokens/s)."""

_MIX = {"single24": "single24", "geo24": "single24", "high42": "high42", "quality10": "quality10"}

_SPECS = {
    "30b": ModelSpec(
        name="llama-30b",
        manifest_hash=hashlib.sha256(b"helix reference llama-30b").hexdigest(),
        layers=60,
        d_model=6656,
        vocab_size=32000,
        context_tokens=2048,
        layer_bytes=1_073_741_824,
        embedding_bytes=0,
        head_bytes=0,
        kv_bytes_per_token=2 * 6656 * 2,
        activation_bytes=2 * 6656 + TOKEN_ID_BYTES,
    ),
    "70b": ModelSpec(
        name="llama-2-70b",
        manifest_hash=hashlib.sha256(b"helix reference llama-2-70b").hexdigest(),
        layers=80,
        d_model=8192,
        vocab_size=32000,
        context_tokens=4096,
        layer_bytes=1_711_308_800,
        embedding_bytes=0,
        head_bytes=0,
        kv_bytes_per_token=2 * 1024 * 2,
        activation_bytes=2 * 8192 + TOKEN_ID_BYTES,
    ),
}


@dataclass(frozen=True, slots=True)
class PublishedPlacement:
    """A placement that came with the artifact.

    Attributes:
        case: `cluster/model/planner`, e.g. `single24/70b/ilp`.
        max_flow_tokens_per_s: As published.
        ranges: What each peer holds, by the names of `reference_snapshot`.
        join_order: In which peers joined, where the rule depends on it; else empty.
    """

    case: str
    max_flow_tokens_per_s: float
    ranges: Mapping[PeerId, LayerRange]
    join_order: tuple[PeerId, ...] = ()


def reference_model(model: str) -> ModelSpec:
    """Sizes of `30b` (Llama 30B) or `70b` (Llama 2 70B), 16 bit.

    Raises:
        ConfigError: No such model.
    """
    if model not in _SPECS:
        raise ConfigError(f"model {model!r} is not one of {', '.join(MODELS)}")
    return _SPECS[model]


def reference_snapshot(
    cluster: str, model: str = "70b", *, only_kind: str | None = None, mix: str | None = None
) -> Snapshot:
    """One of the paper's clusters with one of its models.

    Args:
        cluster: One of `CLUSTERS`.
        model: One of `MODELS`.
        only_kind: Keep the peers of this GPU alone, as the separate-pipelines baseline does.
        mix: Take T(k) from this cluster mix instead of the cluster's own, e.g. `a100x4`.

    Raises:
        ConfigError: No such cluster, model, kind or mix.
    """
    spec = reference_model(model)
    described = _cluster(cluster)
    curves = _table("throughput.json")[model]
    mix = mix or _MIX[cluster]
    if mix not in curves:
        raise ConfigError(f"cluster mix {mix!r} is not one of {', '.join(sorted(curves))}")
    region_of = {
        index: f"region-{number}"
        for number, members in enumerate(described.get("regions", ()))
        for index in members
    }
    names = _names(described["kinds"])
    peers = [
        _profile(spec, model, name, kind, curves[mix], region_of.get(index))
        for index, (name, kind) in enumerate(zip(names, described["kinds"], strict=True))
        if only_kind in (None, kind)
    ]
    if not peers:
        raise ConfigError(f"{cluster} has no {only_kind!r}: {', '.join(set(described['kinds']))}")
    kept = {profile.peer for profile in peers}
    links: dict[tuple[PeerId, PeerId], Link] = {}
    for a, b, latency_s, bytes_per_s in described.get("links", ()):
        if names[a] in kept and names[b] in kept:
            links[names[a], names[b]] = links[names[b], names[a]] = Link(latency_s, bytes_per_s)
    uniform = described.get("uniform_link")
    return Snapshot(
        spec, tuple(sorted(peers, key=_by_id)), links, Link(*uniform) if uniform else None
    )


def client_links(cluster: str) -> Mapping[PeerId, tuple[Link, Link]]:
    """The coordinator's links of a cluster: by peer, the way in and the way back.

    Raises:
        ConfigError: No such cluster.
    """
    described = _cluster(cluster)
    names = _names(described["kinds"])
    if "uniform_link" in described:
        link = Link(*described["uniform_link"])
        return dict.fromkeys(names, (link, link))
    back = {index: Link(*rest) for index, *rest in described["sink_links"]}
    return {names[i]: (Link(*rest), back[i]) for i, *rest in described["client_links"]}


def published_placements(cluster: str, model: str) -> Mapping[str, PublishedPlacement]:
    """The artifact's placements over a whole cluster, by planner: `ilp`, `petals`, `swarm`.

    Raises:
        ConfigError: No such cluster.
    """
    names = _names(_cluster(cluster)["kinds"])
    found = {}
    for case, said in _table("placements.json").items():
        where, what, planner = case.split("/")
        if (where, what) == (cluster, model) and "kinds" not in said:
            ranges = dict(zip(names, (LayerRange(*r) for r in said["ranges"]), strict=True))
            joined = tuple(names[index] for index in said.get("join_order", ()))
            found[planner] = PublishedPlacement(case, said["max_flow"], ranges, joined)
    return found


def reference_speed(model: str, kind: str) -> SpeedProfile:
    """Seconds per layer of a GPU that the artifact profiled.

    Raises:
        ConfigError: No such model or GPU.
    """
    reference_model(model)
    times = _table("layer_times.json")[model]
    if kind not in times:
        raise ConfigError(f"GPU {kind!r} is not one of {', '.join(sorted(times))}")
    points = times[kind]
    decode = [(int(n), float(s)) for n, s in points["decode"]]
    # The artifact doubles the interpolated time of a single decoding request, and its table
    # starts at two: half of that entry, doubled, is the entry itself.
    if decode[0][0] > 1:
        decode.insert(0, (1, decode[0][1]))
    prefill = [(int(n), float(s)) for n, s in points["prefill"]]
    # Its tables start at zero seconds for no tokens, ours are flat below the first point.
    prefill.insert(0, (1, prefill[0][1] / prefill[0][0]))
    return SpeedProfile(tuple(prefill), tuple(decode))


def batch_limits(cluster: str, model: str, kind: str, layers: int) -> tuple[int, int]:
    """The artifact's batch limits of a GPU with so many layers: prompts, decoding requests.

    Raises:
        ConfigError: No such cluster or model.
    """
    _cluster(cluster)
    reference_model(model)
    rows = _table("throughput.json")[model][_MIX[cluster]][kind]
    return rows["prompt_max_requests"][layers - 1], rows["decode_max_tokens"][layers - 1]


def _profile(
    spec: ModelSpec,
    model: str,
    name: PeerId,
    kind: str,
    curves: Mapping[str, Any],
    region: str | None,
) -> PeerProfile:
    if kind not in curves:
        raise ConfigError(f"this cluster mix does not know GPU {kind!r}")
    curve = curves[kind]
    most = len(curve["tokens_per_s"])
    return PeerProfile(
        peer=name,
        # So that with the most layers exactly the artifact's KV room is left; with fewer layers
        # the two agree within 4 %.
        memory_bytes=most * spec.layer_bytes
        + int(curve["kv_layer_tokens"][-1]) * spec.kv_bytes_per_token,
        tokens_per_s=tuple(curve["tokens_per_s"]),
        uplink_bytes_per_s=NIC_BYTES_PER_S,
        downlink_bytes_per_s=NIC_BYTES_PER_S,
        speed=reference_speed(model, kind),
        kind=kind,
        region=region,
    )


def _by_id(profile: PeerProfile) -> PeerId:
    return profile.peer


def _names(kinds: list[str]) -> list[PeerId]:
    return [PeerId(f"{index:02d}-{kind.lower()}") for index, kind in enumerate(kinds)]


def _cluster(cluster: str) -> Mapping[str, Any]:
    described = _table("clusters.json")
    if cluster not in described:
        raise ConfigError(f"cluster {cluster!r} is not one of {', '.join(CLUSTERS)}")
    found: Mapping[str, Any] = described[cluster]
    return found


@cache
def _table(name: str) -> Mapping[str, Any]:
    text = files("helix_p2p.cluster").joinpath("reference_data", name).read_text(encoding="utf-8")
    table: Mapping[str, Any] = json.loads(text)
    return table
