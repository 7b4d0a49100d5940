"""Reads a cluster file: a swarm described by hand, to plan and simulate before it exists.

TOML with people's units; docs/cluster-file.md explains every key. Reading is strict, since a
mistyped key that is silently ignored plans another swarm than the one that was meant.

Always: whatever is wrong ends as one `ConfigError` that names the file, the line where it can be
found, the field, and the nearest right name; nothing is guessed.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.presets import BITS_PER_WEIGHT, DEVICES, MODELS, ModelShape, roofline
from helix_p2p.cluster.profile import PeerProfile, SpeedProfile, throughput_curve
from helix_p2p.cluster.snapshot import Link, Snapshot
from helix_p2p.cluster.strict_toml import Table, listed, open_toml, read_text
from helix_p2p.cluster.units import BYTES, BYTES_PER_S, SECONDS
from helix_p2p.types import PeerId

FILE_LIMIT_BYTES = 4 * 1024 * 1024
PEER_LIMIT = 10_000
LINK_LIMIT = 2_000_000
"""Pairs of peers, as many as a region of 1400 has; they take some 0.5 GB."""


@dataclass(frozen=True, slots=True)
class _Region:
    name: str
    rtt_s: float
    bandwidth_bytes_per_s: float | None


def read_cluster(path: Path) -> Snapshot:
    """Read a cluster file.

    Raises:
        ConfigError: It cannot be read, or something in it is wrong.
    """
    return parse_cluster(read_text(path, FILE_LIMIT_BYTES), str(path))


def parse_cluster(text: str, source: str = "cluster file") -> Snapshot:
    """Turn the text of a cluster file into a snapshot.

    Args:
        text: TOML.
        source: How errors call it.

    Raises:
        ConfigError: Something in it is wrong.
    """
    root = open_toml(text, source)
    shape, bits, model = _model(root)
    regions = {region.name: region for region in map(_region, root.tables("regions"))}
    peers: dict[PeerId, PeerProfile] = {}
    places: dict[str, list[PeerId]] = {name: [] for name in regions}
    for table in root.tables("peers", required=True):
        for profile in _peers(table, shape, bits, model, regions):
            if profile.peer in peers or profile.peer in regions:
                table.fail("name", f"{profile.peer!r} is already taken")
            peers[profile.peer] = profile
            places[profile.peer] = [profile.peer]
            if profile.region is not None:
                places[profile.region].append(profile.peer)
    if len(peers) > PEER_LIMIT:
        root.fail("peers", f"{len(peers)} peers are more than the {PEER_LIMIT} allowed")
    links: dict[tuple[PeerId, PeerId], Link] = {}
    for region in regions.values():
        inside = Link(region.rtt_s / 2, region.bandwidth_bytes_per_s)
        if not _join(links, places[region.name], places[region.name], inside):
            root.fail("regions", f"{region.name!r} has too many peers: {_TOO_MANY}")
    for table in root.tables("links"):
        _link(table, places, links)
    default = _default_link(root)
    root.finish()
    return Snapshot(model, tuple(peers[name] for name in sorted(peers)), links, default)


def _model(root: Table) -> tuple[ModelShape, int, ModelSpec]:
    said = root.take("model", (str, dict), required=True)
    if isinstance(said, str):
        name, bits = said, 16
        if match := re.fullmatch(r"(.+)-(\d+)bit", said):
            name, bits = match[1], int(match[2])
        if name not in MODELS:
            root.fail("model", f"{said!r} is no preset", near=(name, MODELS))
        if bits not in BITS_PER_WEIGHT:
            root.fail("model", f"{bits} bits are not one of {listed(BITS_PER_WEIGHT)}")
        return MODELS[name], bits, MODELS[name].spec(bits)
    table = root.inner("model", said)
    bits = table.whole("bits", default=16)
    if bits not in BITS_PER_WEIGHT:
        table.fail("bits", f"{bits} is not one of {listed(BITS_PER_WEIGHT)}")
    d_model, heads = table.whole("d_model"), table.whole("heads")
    shape = ModelShape(
        name=table.text("name"),
        layers=table.whole("layers", most=1000),
        d_model=d_model,
        heads=heads,
        kv_heads=table.whole("kv_heads", default=heads),
        head_dim=table.whole("head_dim", default=max(1, d_model // heads)),
        ffn=table.whole("ffn"),
        vocab_size=table.whole("vocab_size"),
        context_tokens=table.whole("context_tokens"),
    )
    table.finish()
    spec = shape.spec(bits)
    named = hashlib.sha256(repr((shape, bits)).encode()).hexdigest()
    return shape, bits, replace(spec, manifest_hash=named)


def _region(table: Table) -> _Region:
    region = _Region(
        table.text("name"),
        table.quantity("rtt", SECONDS, required=True) or 0.0,
        table.quantity("bandwidth", BYTES_PER_S),
    )
    table.finish()
    return region


def _peers(
    table: Table,
    shape: ModelShape,
    bits: int,
    model: ModelSpec,
    regions: Mapping[str, _Region],
) -> Iterable[PeerProfile]:
    """The peers of one `[[peers]]` entry: one, or `count` of them with numbered names."""
    name, count = table.text("name"), table.whole("count", default=1, most=PEER_LIMIT)
    device_name = table.text("device", default="")
    if device_name and device_name not in DEVICES:
        table.fail("device", f"{device_name!r} is not known", near=(device_name, DEVICES))
    device = DEVICES.get(device_name)
    memory = table.quantity("memory", BYTES, required=device is None)
    memory_bytes = round(memory if memory is not None else device.memory_bytes if device else 0)
    curve = table.take("tokens_per_s", (list,))
    measured = table.take("speed", (dict,))
    if sum(said is not None for said in (curve, measured, device)) != 1:
        table.fail(None, "needs exactly one of `device`, `speed` and `tokens_per_s`")
    speed = _speed(table.inner("speed", measured)) if measured is not None else None
    if device is not None:
        speed = roofline(shape, bits, device)
    if speed is not None:
        rates = throughput_curve(model, memory_bytes, speed)
    else:
        rates = tuple(table.positive("tokens_per_s", rate) for rate in curve or ())
        if not rates or len(rates) > model.layers:
            table.fail("tokens_per_s", f"needs 1 to {model.layers} entries, one per layer held")
        if len(rates) * model.layer_bytes > memory_bytes:
            table.fail(
                "tokens_per_s",
                f"{len(rates)} layers of {model.layer_bytes / 1e9:.2f} GB are more than the "
                f"{memory_bytes / 1e9:.1f} GB of memory",
            )
    region = table.text("region", default="") or None
    if region is not None and region not in regions:
        table.fail("region", f"{region!r} is not in [[regions]]", near=(region, regions))
    base = PeerProfile(
        peer=PeerId(name),
        memory_bytes=memory_bytes,
        tokens_per_s=rates,
        uplink_bytes_per_s=table.quantity("uplink", BYTES_PER_S),
        downlink_bytes_per_s=table.quantity("downlink", BYTES_PER_S),
        speed=speed,
        kind=device_name or table.text("kind", default=name),
        region=region,
    )
    table.finish()
    if count == 1:
        return [base]
    width = len(str(count))
    return [replace(base, peer=PeerId(f"{name}-{n:0{width}d}")) for n in range(1, count + 1)]


def _speed(table: Table) -> SpeedProfile:
    def points(key: str) -> tuple[tuple[int, float], ...]:
        found = []
        for entry in table.take(key, (list,), required=True):
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], int)):
                table.fail(key, f'{entry!r} is not a pair such as `[8, "0.4 ms"]`')
            found.append((entry[0], table.converted(key, entry[1], SECONDS)))
        return tuple(found)

    prefill, decode = points("prefill"), points("decode")
    head_s = table.quantity("head", SECONDS) or 0.0
    table.finish()
    try:
        return SpeedProfile(prefill, decode, head_s)
    except ValueError as error:
        table.fail(None, str(error))


def _link(
    table: Table,
    places: Mapping[str, list[PeerId]],
    links: dict[tuple[PeerId, PeerId], Link],
) -> None:
    ends = []
    for key in ("from", "to"):
        name = table.text(key)
        if name not in places:
            table.fail(key, f"{name!r} is neither a peer nor a region", near=(name, places))
        ends.append(places[name])
    rtt_s = table.quantity("rtt", SECONDS, required=True) or 0.0
    bandwidth = table.quantity("bandwidth", BYTES_PER_S)
    one_way = table.take("one_way", (bool,)) or False
    table.finish()
    link = Link(rtt_s / 2, bandwidth)
    ways = [(ends[0], ends[1])] if one_way else [(ends[0], ends[1]), (ends[1], ends[0])]
    if not all(_join(links, source, target, link) for source, target in ways):
        table.fail(None, f"joins too many peers: {_TOO_MANY}")


_TOO_MANY = f"more than {LINK_LIMIT} pairs are not kept; say it in `default_link`"


def _join(
    links: dict[tuple[PeerId, PeerId], Link],
    sources: Sequence[PeerId],
    targets: Sequence[PeerId],
    link: Link,
) -> bool:
    """Add the pairs; False when they are too many."""
    if len(links) + len(sources) * len(targets) > LINK_LIMIT:
        return False
    links.update({(a, b): link for a, b in product(sources, targets) if a != b})
    return True


def _default_link(root: Table) -> Link | None:
    said = root.take("default_link", (dict, bool))
    if said is None:
        return Link(0.05)
    if isinstance(said, bool):
        if said:
            root.fail("default_link", "is either `false` (no link unless listed) or a table")
        return None
    table = root.inner("default_link", said)
    rtt_s = table.quantity("rtt", SECONDS, required=True) or 0.0
    link = Link(rtt_s / 2, table.quantity("bandwidth", BYTES_PER_S))
    table.finish()
    return link
