"""A model folder's contents by hash: what makes two peers sure that they hold the same weights.

The manifest lists config, safetensors shards and the small files that clients need (tokenizer, chat
template), each with size and SHA-256; its own hash is the model's name in the swarm. Always: only
safetensors are listed, never pickles; a folder that is not whole gives a `ModelError`, not a
manifest; the folder's path and name are no part of the hash. SHA-256s are remembered on disk by
(path, size, mtime), so a second start reads nothing but headers.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from helix_p2p import codec
from helix_p2p.errors import DecodeError, ModelError

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
SHAREABLE_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    CONFIG_FILE,
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""What a client may ask a peer for: enough to turn a chat into token ids and back."""

SHAREABLE_LIMIT_BYTES = 64 * 1024 * 1024
HEADER_LIMIT_BYTES = 100_000_000
"""The safetensors library's own limit for a header."""
READ_BYTES = 4 * 1024 * 1024

Progress = Callable[[str, int, int], None]
"""Called with (file, bytes hashed so far, bytes in all)."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the model, with a path relative to its folder."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model consists of.

    Attributes:
        name: What people call it; no part of the hash.
        architecture: The class that transformers would load, e.g. `LlamaForCausalLM`.
        config_hash: Hex SHA-256 of the configuration without what does not change the model.
        files: Ascending by name.
    """

    name: str
    architecture: str
    config_hash: str
    files: tuple[FileEntry, ...]

    @property
    def manifest_hash(self) -> str:
        """Hex SHA-256 of the canonical bytes."""
        body = codec.encode((self.architecture, self.config_hash, self.files))
        return codec.sha256(b"helix manifest 1\0" + body).hex()

    @property
    def shareable(self) -> tuple[str, ...]:
        """Names of the small files that clients may fetch."""
        return tuple(f.name for f in self.files if f.name in SHAREABLE_FILES)

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(f.size_bytes for f in self.files)


def make_manifest(
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
        cache: Where hashes are remembered; the user's cache folder when None.
        progress: Told while files are hashed.

    Raises:
        ModelError: The folder is missing, not whole, or has no safetensors.
    """
    config = read_config(folder)
    weights = weight_files(folder)
    names = {CONFIG_FILE, *(path.name for path in weights)}
    names |= {file for file in (INDEX_FILE, *SHAREABLE_FILES) if (folder / file).is_file()}
    hashes = _HashCache(cache or Path(platformdirs.user_cache_dir("helix-p2p")) / "sha256.json")
    total = sum((folder / file).stat().st_size for file in names)
    done = 0
    entries = []
    for file in sorted(names):
        entry = hashes.entry(folder / file, progress and _offset(progress, file, done, total))
        done += entry.size_bytes
        entries.append(entry)
    hashes.save()
    return Manifest(
        name or folder.resolve().name, architecture_of(config), _config_hash(config), tuple(entries)
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
        if any(Path(shard).name != shard for shard in shards):
            raise ModelError(f"{folder / INDEX_FILE} names files outside the folder")
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


def read_header(path: Path) -> dict[str, Any]:
    """Tensor names with dtype, shape and place, from a safetensors file that must be whole.

    Raises:
        ModelError: The file is truncated or not safetensors.
    """
    size = path.stat().st_size
    broken = ModelError(f"{path} is truncated or corrupt", hint="download that file again")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT_BYTES):
            raise broken
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise broken from error
    if size != 8 + length + end:
        raise broken
    result: dict[str, Any] = header
    return result


def read_shareable(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """The small files that clients need, by name.

    Raises:
        ModelError: One has gone, or is too large to hand out.
    """
    files = {}
    for entry in manifest.files:
        if entry.name not in SHAREABLE_FILES:
            continue
        if entry.size_bytes > SHAREABLE_LIMIT_BYTES:
            raise ModelError(f"{entry.name} is too large to share: {entry.size_bytes} bytes")
        try:
            files[entry.name] = (folder / entry.name).read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read {folder / entry.name}: {error.strerror}") from error
    return files


def _config_hash(config: dict[str, Any]) -> str:
    kept = {key: value for key, value in config.items() if key not in _IDLE_CONFIG_KEYS}
    return codec.sha256(codec.encode(kept)).hex()


_IDLE_CONFIG_KEYS = frozenset({"transformers_version", "_name_or_path"})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}", hint="download that file again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", hint="download that file again")
    return value


def _offset(progress: Progress, file: str, done: int, total: int) -> Callable[[int], None]:
    return lambda read: progress(file, done + read, total)


@dataclass
class _HashCache:
    """SHA-256 by (path, size, mtime_ns); a cache that cannot be read or written is no error."""

    path: Path
    known: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    changed: bool = False

    def __post_init__(self) -> None:
        try:
            self.known = msgspec.json.decode(
                self.path.read_bytes(), type=dict[str, tuple[int, int, str]]
            )
        except (OSError, msgspec.DecodeError, DecodeError):
            self.known = {}

    def entry(self, path: Path, progress: Callable[[int], None] | None) -> FileEntry:
        stat = path.stat()
        key = str(path.resolve())
        known = self.known.get(key)
        if known is None or known[:2] != (stat.st_size, stat.st_mtime_ns):
            digest = hashlib.sha256()
            read = 0
            for part in _parts(path):
                digest.update(part)
                read += len(part)
                if progress:
                    progress(read)
            known = (stat.st_size, stat.st_mtime_ns, digest.hexdigest())
            self.known[key] = known
            self.changed = True
        return FileEntry(path.name, known[0], known[2])

    def save(self) -> None:
        if not self.changed:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as file:
                file.write(msgspec.json.encode(self.known))
            os.replace(file.name, self.path)  # noqa: PTH105
        except OSError:
            return


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while part := file.read(READ_BYTES):
            yield part
