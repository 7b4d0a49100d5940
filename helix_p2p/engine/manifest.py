"""From a model folder to its manifest (cluster/manifest.py), and the checks that it is whole.

Always: only config, safetensors and the small files that clients need are listed, never pickles; a
folder that is not whole gives a `ModelError`, not a manifest. Hashes are remembered (hashes.py), so
a second start reads nothing but headers.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from helix_p2p.cluster.manifest import (
    SHARED_FILE_LIMIT_BYTES,
    SHARED_NAMES,
    Manifest,
    ManifestFile,
    is_plain_name,
    make_manifest,
)
from helix_p2p.engine.hashes import HashCache
from helix_p2p.engine.header import read_header
from helix_p2p.engine.supported import check_supported
from helix_p2p.errors import ModelError
from helix_p2p.types import MOST_TOKENS

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"

Progress = Callable[[str, int, int], None]
"""Called with (file, bytes hashed so far, bytes in all)."""


def read_manifest(
    folder: Path,
    *,
    name: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """List and hash a model folder.

    Args:
        folder: Holds `config.json`, safetensors and tokenizer files.
        name: What people call the model; the folder's name when None.
        cache: File in which hashes are remembered; one in the user's cache folder when None.
        progress: Told while files are hashed.

    Raises:
        ModelError: The folder is missing, not whole, has no safetensors, or the model cannot be
            served in slices.
    """
    config = read_config(folder)
    architecture = architecture_of(config)
    check_supported(architecture, config)
    names = {path.name for path in weight_files(folder)}
    names |= {file for file in (INDEX_FILE, *SHARED_NAMES) if (folder / file).is_file()}
    hashes = HashCache(cache)
    total = sum((folder / file).stat().st_size for file in names)
    done = 0
    files = []
    for file in sorted(names):
        found = hashes.of(folder / file, progress and _offset(progress, file, done, total))
        done += found.size_bytes
        shared = file in SHARED_NAMES and found.size_bytes <= SHARED_FILE_LIMIT_BYTES
        files.append(ManifestFile(file, found.size_bytes, found.sha256, shared))
    hashes.save()
    return make_manifest(
        name=name or folder.resolve().name,
        architecture=architecture,
        layers=_number(config, "num_hidden_layers", "n_layer", "num_layers"),
        vocab_size=_number(config, "vocab_size"),
        context_tokens=context_tokens(config),
        files=files,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`.

    Raises:
        ModelError: No such folder, no configuration in it, or not JSON.
    """
    if not folder.is_dir():
        raise ModelError(f"no model folder at {folder}", hint="check the path given with --model")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} is not a model: it has no {CONFIG_FILE}",
            hint="give the folder that holds config.json and the .safetensors files",
        )
    return _read_json(path)


def architecture_of(config: dict[str, Any]) -> str:
    """The class that the configuration names.

    Raises:
        ModelError: It names none.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelError(f"{CONFIG_FILE} names no architecture", hint="is it a language model's?")
    return names[0]


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The folder's safetensors, checked to be whole by their headers and sizes.

    Raises:
        ModelError: There are none, one is missing, or one is truncated.
    """
    if (folder / INDEX_FILE).is_file():
        weight_map = _read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{folder / INDEX_FILE} has no weight_map", hint="download it again")
        shards = sorted({str(shard) for shard in weight_map.values()})
        odd = next((shard for shard in shards if not is_plain_name(shard)), None)
        if odd is not None:
            raise ModelError(
                f"{folder / INDEX_FILE} names {odd[:80]!r}, outside the folder or no plain name"
            )
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise ModelError(
                f"{folder} is half-downloaded: {len(missing)} of {len(shards)} weight files are "
                f"missing, first {missing[0]}",
                hint="finish the download",
            )
        paths = tuple(folder / shard for shard in shards)
    else:
        paths = tuple(sorted(folder.glob("*.safetensors")))
        odd = next((path.name for path in paths if not is_plain_name(path.name)), None)
        if odd is not None:
            raise ModelError(
                f"{folder} holds {odd!r}", hint="rename it: letters, digits, dots, - and _ only"
            )
    if not paths:
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
            raise ModelError(
                f"{folder} holds pickled weights only, which can run code when loaded",
                hint="take the model's safetensors files",
            )
        raise ModelError(f"{folder} has no .safetensors files", hint="is the download finished?")
    for path in paths:
        read_header(path)
    return paths


def context_tokens(config: Mapping[str, Any]) -> int:
    """Longest prompt and answer that can be served.

    Rotary embeddings of the kinds `longrope` and `dynamic` change all their frequencies once a
    sequence grows beyond the length of the first training. What is cached would then be wrong, and
    a chunk cannot know how long its prompt is; so the context ends there. No context is longer than
    what one message may carry.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, Mapping) else None
    if isinstance(rope, Mapping) and kind in ("longrope", "dynamic"):
        for place in (rope, config):
            first = place.get("original_max_position_embeddings")
            if isinstance(first, int) and first > 0:
                return min(first, MOST_TOKENS)
    for key in ("max_position_embeddings", "n_positions", "seq_length"):
        value = config.get(key)
        if isinstance(value, int) and value > 0:
            return min(value, MOST_TOKENS)
    return 2048  # bloom and falcon need not say; both were trained with 2048


def _number(config: Mapping[str, Any], *keys: str) -> int:
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and value > 0:
            return value
    raise ModelError(f"{CONFIG_FILE} has no {keys[0]}", hint="is it a language model's?")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}", hint="download that file again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", hint="download that file again")
    return value


def _offset(progress: Progress, file: str, done: int, total: int) -> Callable[[int], None]:
    return lambda read: progress(file, done + read, total)
