"""Files that were downloaded, written by an earlier run, or written by a person."""

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from helix_p2p import codec
from helix_p2p.cluster.file import parse_cluster
from helix_p2p.cluster.manifest import MANIFEST_LIMIT_BYTES, decode_manifest
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.engine import manifest as folders
from helix_p2p.engine.hashes import HashCache
from helix_p2p.engine.header import read_header
from helix_p2p.engine.supported import check_supported
from helix_p2p.errors import ConfigError, InputError
from helix_p2p.membership.adoption import HIGH_WATER_LIMIT_BYTES, HighWater
from helix_p2p.node import state
from helix_p2p.sim.scenario import parse_scenario
from tests.fuzz import seeds
from tests.fuzz.decoder import KIB, OWN, Decoder, codec_again, text
from tests.fuzz.mutation import (
    mutate_bytes,
    mutate_json,
    mutate_lines,
)
from tests.fuzz.seeds import ME, SWARM

REPOSITORY = Path(__file__).parents[3]


@cache
def _folder() -> tuple[Any, Path]:
    holder = tempfile.TemporaryDirectory(prefix="helix-fuzz-")
    return holder, Path(holder.name)


def _file(name: str) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        folder = _folder()[1] / name.split(".", 1)[0]
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_bytes(data)
        return path

    return write


def _safetensors(data: bytes) -> Path:
    """A file around a header: JSON gets its length and its tensors; other bytes are the file."""
    if data.startswith(b"{"):
        ends = [0]
        try:
            tensors = json.loads(data).values()
            ends += [t["data_offsets"][1] for t in tensors if "data_offsets" in t]
            filling = bytes(min(4096, max(ends)))
        except Exception:  # noqa: BLE001 - a header that is none
            filling = bytes(160)
        data = len(data).to_bytes(8, "little") + data + filling
    return _file("one.safetensors")(data)


def _index(data: bytes) -> Path:
    path = _file("model.safetensors.index.json")(data)
    shard = path.with_name("model.safetensors")
    if not shard.exists():
        shard.write_bytes((2).to_bytes(8, "little") + b"{}")
    return path


def _read_config(path: Path) -> None:
    config = folders.read_config(path.parent)
    check_supported(folders.architecture_of(config), config)
    folders.context_tokens(config)


_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 4,
    "max_position_embeddings": 2048,
    "rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 4096},
    "rope_parameters": {"type": "dynamic"},
    "torch_dtype": "bfloat16",
}


_HASHES = b'{"/m/a": {"size_bytes": 5, "mtime_ns": 6, "sha256": "ab", "tensors": {"t": "cd"}}}'
_QUANTISED = {"quantization_config": {"quant_method": "gptq"}}


def _stored(value: object) -> bytes:
    return codec.encode(value)


def _state_file(data: bytes) -> Path:
    """With its magic and checksum, as a damaged program might have written it."""
    body = data[1:] if data[:1] == b"\xc1" else None
    whole = body if body is not None else state._MAGIC + codec.sha256(data) + data
    return _file("high-water")(whole)


def _state_again(value: Any) -> tuple[bytes, bytes]:
    return codec_again(value)


_HIGH_WATER = state.HighWaterMark(SWARM, (64, b"t" * 32, b"h" * 32))


def _read_known_peers(path: Path) -> Any:
    return state.read_value(path, tuple[str, ...])


def _examples(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [(REPOSITORY / "examples" / name).read_bytes() for name in names]


_SMALL_CLUSTER = b"""model = "llama-3.3-70b-4bit"
default_link = false
[[regions]]
name = "r"
rtt = "8 ms"
bandwidth = "1 Gb/s"
[[links]]
from = "r"
to = "b"
rtt = "45 ms"
one_way = true
[[peers]]
name = "a"
count = 4
device = "rtx-4090"
region = "r"
[[peers]]
name = "b"
memory = "8 GB"
tokens_per_s = [900, 450, 300]
[[peers]]
name = "c"
memory = "16 GB"
[peers.speed]
prefill = [[1, "1.1 ms"], [128, "6 ms"]]
decode = [[1, "1.1 ms"], [8, "1.3 ms"]]
head = "4 ms"
"""


def _read_cluster(text: str) -> None:
    parse_cluster(text)


def _read_scenario(text: str) -> None:
    parse_scenario(text, "scenario", REPOSITORY / "examples" / "scenarios")


def _read_speed(path: Path) -> SpeedProfile | None:
    from helix_p2p.engine.profile import _load

    return _load(path)


def _read_hashes(path: Path) -> Any:
    return HashCache(path)._known


DECODERS = (
    Decoder(
        "manifest",
        decode_manifest,
        lambda: [manifest.encoded for manifest in seeds.manifests()],
        MANIFEST_LIMIT_BYTES,
        mutate=mutate_json,
        again=lambda v: (v.encoded, decode_manifest(v.encoded).encoded),
    ),
    Decoder(
        "safetensors",
        read_header,
        lambda: [json.dumps(seeds.safetensors_header()).encode()],
        64 * KIB,
        (InputError,),
        _safetensors,
        mutate_json,
        **OWN,
    ),
    Decoder(
        "weight-index",
        lambda p: folders.weight_files(p.parent),
        lambda: [b'{"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}'],
        64 * KIB,
        (InputError,),
        _index,
        mutate_json,
        **OWN,
    ),
    Decoder(
        "model-config",
        _read_config,
        lambda: [json.dumps(c).encode() for c in (_CONFIG, _CONFIG | _QUANTISED)],
        64 * KIB,
        (InputError,),
        _file("config.json"),
        mutate_json,
        **OWN,
    ),
    Decoder(
        "high-water",
        HighWater.decode,
        lambda: [HighWater(64, b"t" * 32, b"h" * 32).encode()],
        HIGH_WATER_LIMIT_BYTES,
        again=codec_again,
    ),
    Decoder(
        "state-file",
        lambda p: state.read_value(p, state.HighWaterMark),
        lambda: [_stored(_HIGH_WATER), b"\xc1" + state._MAGIC],
        64 * KIB,
        (ConfigError,),
        _state_file,
        again=_state_again,
    ),
    Decoder(
        "known-peers",
        _read_known_peers,
        lambda: [_stored(("/ip4/127.0.0.1/tcp/1", "/ip4/1.2.3.4"))],
        64 * KIB,
        (ConfigError,),
        _state_file,
    ),
    Decoder(
        "identity-key",
        state.load_or_create_key,
        lambda: [ME.to_libp2p()],
        4 * KIB,
        (ConfigError,),
        _file("identity.key"),
        mutate_bytes,
    ),
    Decoder(
        "speed-cache",
        _read_speed,
        lambda: [msgspec.json.encode(seeds.SPEED)],
        64 * KIB,
        (),
        _file("speed.json"),
        mutate_json,
        **OWN,
    ),
    Decoder(
        "hash-cache",
        _read_hashes,
        lambda: [_HASHES],
        64 * KIB,
        (),
        _file("sha256.json"),
        mutate_json,
        **OWN,
    ),
    Decoder(
        "cluster-file",
        _read_cluster,
        lambda: [_SMALL_CLUSTER, *_examples("home-swarm.toml")()],
        64 * KIB,
        (InputError,),
        text,
        mutate_lines,
        **OWN,
    ),
    Decoder(
        "scenario-file",
        _read_scenario,
        _examples("scenarios/home-churn.toml", "scenarios/paper.toml"),
        64 * KIB,
        (InputError,),
        text,
        mutate_lines,
        **OWN,
    ),
)
