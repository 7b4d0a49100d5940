"""SHA-256 of model files, remembered; and every tensor checked again each time that it is read.

Hashing a whole model takes a minute and happens once: the manifest is made of it, and what the
swarm's root key signed names that manifest. In the same pass each tensor gets a digest of its own,
so that a later load proves exactly the bytes it reads, however long ago the file was hashed: a bit
that a disk loses, without touching size or time, is found before its layer is announced.

Always: a digest counts only while its file's SHA-256 is the manifest's; a cache that cannot be read
or written is no error; a file that is wrong is fetched again once, where it came from a hub.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import platformdirs
import torch

from helix_p2p.cluster.manifest import Manifest
from helix_p2p.engine.header import HEADER_LIMIT_BYTES, read_header
from helix_p2p.errors import ModelError

READ_BYTES = 4 * 1024 * 1024
_DIGEST_BYTES = 16

Progressed = Callable[[int], None]
"""Called with the bytes of the file that are hashed."""
Refetch = Callable[[str], None]
"""Downloads a file of the model again, by its name."""


@dataclass(frozen=True, slots=True)
class FileHashes:
    """What is known of a file as it was.

    Attributes:
        sha256: Of all of it, lower-case hex.
        header: Of a safetensors file, the digest of its header, hex.
        tensors: And of each tensor's bytes.
    """

    size_bytes: int
    mtime_ns: int
    sha256: str
    header: str = ""
    tensors: dict[str, str] = field(default_factory=dict)


class HashCache:
    """Hashes by (path, size, mtime_ns).

    Args:
        path: The file in which they are remembered; one in the user's cache folder when None.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or Path(platformdirs.user_cache_dir("helix-p2p")) / "hashes.json"
        self._changed = False
        try:
            self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, FileHashes])
        except (OSError, msgspec.DecodeError, ValueError):
            self._known = {}

    def of(self, path: Path, progress: Progressed | None = None) -> FileHashes:
        """A file's hashes, remembered or made now.

        Raises:
            ModelError: It is not whole, or cannot be read.
        """
        key = str(path.resolve())
        try:
            stat = path.stat()
            known = self._known.get(key)
            if known and (known.size_bytes, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                return known
            sha256, header, tensors = _hash(path, progress)
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
        known = self._known[key] = FileHashes(
            stat.st_size, stat.st_mtime_ns, sha256, header, tensors
        )
        self._changed = True
        return known

    def forget(self, path: Path) -> None:
        """The file is not what is remembered."""
        self._changed |= self._known.pop(str(path.resolve()), None) is not None

    def save(self) -> None:
        """Remember what changed for the next start."""
        if not self._changed:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as file:
                file.write(msgspec.json.encode(self._known))
            os.replace(file.name, self._path)  # noqa: PTH105
        except OSError:
            return
        self._changed = False


class WeightGuard:
    """Lets only those tensors through that the manifest stands for; any thread, one at a time.

    Args:
        folder: The model's.
        manifest: What the swarm serves.
        cache: As in `HashCache`.
        refetch: How to get a file again; None where it is a folder of the person's own.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        cache: Path | None = None,
        refetch: Refetch | None = None,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._hashes = HashCache(cache)
        self._refetch = refetch

    def hashes_of(self, path: Path) -> FileHashes:
        """A file's hashes, which are the manifest's.

        Raises:
            ModelError: The file is not the manifest's.
        """
        listed = self._manifest.file(path.name)
        if listed is None:
            raise ModelError(f"{path} is no part of the model {self._manifest.name}")
        found = self._hashes.of(path)
        if found.sha256 != listed.sha256:
            raise _corrupt(path, "its SHA-256 is not the one in the model's manifest")
        self._hashes.save()
        return found

    def check(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        """Compare tensors that were read with what their file held when it was hashed.

        Raises:
            ModelError: A byte differs.
        """
        known = self.hashes_of(path)
        if _header_digest(path) != known.header:
            raise _corrupt(path, "its header has changed since the file was hashed")
        for name, tensor in tensors.items():
            if digest(tensor) != known.tensors.get(name):
                raise _corrupt(path, f"tensor {name} has changed since the file was hashed")

    def mend(self, path: Path) -> bool:
        """Fetch a file again; whether that was possible."""
        self._hashes.forget(path)
        self._hashes.save()
        if self._refetch is None:
            return False
        self._refetch(path.name)
        return True


def digest(tensor: torch.Tensor) -> str:
    """Of a tensor's bytes as they lie in a safetensors file."""
    raw: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(raw, digest_size=_DIGEST_BYTES).hexdigest()


def _corrupt(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} is corrupt: {why}", hint="download that file again")


def _header_digest(path: Path) -> str:
    with path.open("rb") as file:
        length = file.read(8)
        header = length + file.read(min(int.from_bytes(length, "little"), HEADER_LIMIT_BYTES))
    return hashlib.blake2b(header, digest_size=_DIGEST_BYTES).hexdigest()


def _hash(path: Path, progress: Progressed | None) -> tuple[str, str, dict[str, str]]:
    """SHA-256 of the file, and the digests of its header and tensors."""
    whole = hashlib.sha256()
    header_digest = ""
    tensors: dict[str, str] = {}
    places: list[tuple[int, int, str]] = []
    if path.suffix == ".safetensors":
        header = read_header(path)
        header_digest = _header_digest(path)
        end = path.stat().st_size
        first = end - max((stop for _, stop in header.values()), default=0)
        places = sorted(
            (first + start, first + stop, name) for name, (start, stop) in header.items()
        )
    with path.open("rb", buffering=0) as file:
        done = 0

        def take(until: int | None, *others: "hashlib._Hash | hashlib.blake2b") -> None:
            nonlocal done
            while until is None or done < until:
                part = file.read(READ_BYTES if until is None else min(READ_BYTES, until - done))
                if not part:
                    return
                done += len(part)
                for each in (whole, *others):
                    each.update(part)
                if progress:
                    progress(done)

        for start, stop, name in places:
            take(start)
            own = hashlib.blake2b(digest_size=_DIGEST_BYTES)
            take(stop, own)
            tensors[name] = own.hexdigest()
        take(None)
    return whole.hexdigest(), header_digest, tensors
