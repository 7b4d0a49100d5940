"""The model's small files: from a folder of the caller's, the cache, or any peer, all by hash.

The swarm's manifest names each file with its SHA-256, and its own hash names the model, so it does
not matter who hands a file out. What was fetched is kept under the manifest's hash in the user's
cache folder; a file there is checked each time it is read, so a torn or altered one is fetched
again.

Always: a file that is given out has the hash that the manifest says; a file is written whole or not
at all.
"""

import hashlib
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import platformdirs

from helix_p2p.cluster.manifest import MANIFEST_NAME, Manifest, ManifestFile, decode_manifest
from helix_p2p.errors import DecodeError, ModelError

Check = Callable[[bytes], None]
Fetch = Callable[[str, Check], Awaitable[bytes]]
"""Get a file by name from anyone whose bytes pass the check; raises when nobody has it."""

WANTED = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
    }
)


class NobodyHasIt(ModelError):
    """No member that answered hands this file out, yet."""


class VerifiedFiles:
    """A model's small files in memory, as `ModelText` reads them."""

    def __init__(self, origin: str, files: dict[str, bytes]) -> None:
        self._origin = origin
        self._files = files

    @property
    def origin(self) -> str:
        """For error messages."""
        return self._origin

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None when the model has no such file."""
        return self._files.get(name)


def default_cache() -> Path:
    """`~/.cache/helix-p2p/models` and what it is elsewhere."""
    return Path(platformdirs.user_cache_dir("helix-p2p", appauthor=False)) / "models"


async def load_model_files(
    manifest_hash: str, fetch: Fetch, *, folder: Path | None = None, cache: Path | None = None
) -> tuple[Manifest, VerifiedFiles]:
    """The manifest and every small file that a client needs.

    Args:
        manifest_hash: The swarm's model.
        fetch: Asks the swarm.
        folder: The caller's own copy of the model; its files are taken where it has them.
        cache: Where fetched files are kept; None for the user's cache folder.

    Raises:
        ModelError: The folder is no model, or another one than the swarm's.
        NetworkError: Nobody hands a file out.
    """
    if folder is not None:
        check_folder(folder)
    kept = (default_cache() if cache is None else cache) / manifest_hash
    manifest = await _manifest(manifest_hash, fetch, kept)
    files: dict[str, bytes] = {}
    for entry in manifest.shared_files():
        if entry.name not in WANTED:
            continue
        data = _from_folder(folder, entry) if folder is not None else None
        if data is None:
            data = await _file(entry, fetch, kept)
        files[entry.name] = data
    return manifest, VerifiedFiles(manifest.name, files)


def check_folder(folder: Path) -> None:
    """Refuse a model folder that is not there; raises `ModelError`."""
    if not folder.is_dir():
        raise ModelError(f"no model folder at {folder}", hint="check the path given as model")


async def _manifest(manifest_hash: str, fetch: Fetch, kept: Path) -> Manifest:
    def check(data: bytes) -> None:
        decode_manifest(data, manifest_hash=manifest_hash)

    data = _read(kept / MANIFEST_NAME, check)
    if data is None:
        data = await fetch(MANIFEST_NAME, check)
        _write(kept / MANIFEST_NAME, data)
    return decode_manifest(data, manifest_hash=manifest_hash)


async def _file(entry: ManifestFile, fetch: Fetch, kept: Path) -> bytes:
    def check(data: bytes) -> None:
        if not _matches(entry, data):
            raise DecodeError(f"these bytes are not {entry.name} of the swarm's model")

    data = _read(kept / entry.name, check)
    if data is None:
        data = await fetch(entry.name, check)
        _write(kept / entry.name, data)
    return data


def _from_folder(folder: Path, entry: ManifestFile) -> bytes | None:
    try:
        data = (folder / entry.name).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"cannot read {folder / entry.name}: {error.strerror}") from error
    if not _matches(entry, data):
        raise ModelError(
            f"{folder / entry.name} is not the one of the swarm's model",
            hint="leave the model folder away to take the swarm's own files",
        )
    return data


def _matches(entry: ManifestFile, data: bytes) -> bool:
    return len(data) == entry.size_bytes and hashlib.sha256(data).hexdigest() == entry.sha256


def _read(path: Path, check: Check) -> bytes | None:
    try:
        data = path.read_bytes()
        check(data)
    except (OSError, DecodeError):
        return None
    return data


def _write(path: Path, data: bytes) -> None:
    """Keep a file for later; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError:
        return
