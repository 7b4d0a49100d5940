"""From what a person calls a model, a folder or `org/name[@revision]`, to a folder on this disk.

Always: only configuration, tokenizer and safetensors are downloaded, never code or pickles; a
downloaded file that is no longer what the hub gave (its name in the cache says what that was) is
fetched again, of the same commit, before it is part of a manifest.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from helix_p2p.cluster.manifest import SHARED_NAMES, Manifest
from helix_p2p.engine.hashes import HashCache, Refetch
from helix_p2p.engine.manifest import INDEX_FILE, Progress, read_config, read_manifest
from helix_p2p.errors import ModelError

_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_SHA256, _SHA1 = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")
_WANTED = ["*.safetensors", INDEX_FILE, *sorted(SHARED_NAMES)]


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model on this disk.

    Attributes:
        name: What people call it.
        folder: Where its files are.
        refetch: Downloads a file of it again; None where it is a folder of the person's own.
    """

    name: str
    folder: Path
    refetch: Refetch | None = None

    def manifest(self, *, cache: Path | None = None, progress: Progress | None = None) -> Manifest:
        """Its manifest (see `read_manifest`), of files as the hub gave them.

        Raises:
            ModelError: It is not whole, or a file is corrupt and cannot be had again.
        """
        try:
            manifest = read_manifest(self.folder, name=self.name, cache=cache, progress=progress)
        except ModelError:
            if not self._mend(cache):
                raise
        else:
            if not self._mend(cache):
                return manifest
        return read_manifest(self.folder, name=self.name, cache=cache, progress=progress)

    def _mend(self, cache: Path | None) -> bool:
        """Fetch what is corrupt again; whether anything was."""
        if self.refetch is None:
            return False
        hashes = HashCache(cache)
        corrupt = [path for path in sorted(self.folder.iterdir()) if _is_corrupt(path, hashes)]
        for path in corrupt:
            hashes.forget(path)
        hashes.save()
        for path in corrupt:
            self.refetch(path.name)
        return bool(corrupt)


def find_model(named: str) -> FoundModel:
    """The model of a name, downloaded if it must be.

    Args:
        named: A folder, or `org/name` on the Hugging Face hub, with `@revision` if wanted.

    Raises:
        ModelError: No such folder or repository, or it cannot be reached.
    """
    folder = Path(named).expanduser()
    if folder.is_dir():
        read_config(folder)
        return FoundModel(folder.resolve().name, folder)
    found = _REPOSITORY.fullmatch(named)
    if found is None or named.startswith((".", "/", "~")):
        raise ModelError(f"no model folder at {named}", hint="check the path given with --model")
    repository, revision = found.groups()
    snapshot = _download(repository, revision)
    return FoundModel(repository, snapshot, _refetcher(repository, commit=snapshot.name))


def _is_corrupt(path: Path, hashes: HashCache) -> bool:
    """Whether a file of the hub's cache differs from the hash that its name there is.

    Large files are named by their SHA-256, small ones as git names them (gitformat-blob, SHA-1).
    """
    promised = path.resolve().name
    if not path.is_symlink() or not path.is_file():
        return False
    if _SHA256.fullmatch(promised):
        try:
            return hashes.of(path).sha256 != promised
        except ModelError:  # not even its header can be read
            return True
    if _SHA1.fullmatch(promised):
        data = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
        return blob.hexdigest() != promised
    return False


def _refetcher(repository: str, commit: str) -> Refetch:
    def fetch(file: str) -> None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            hf_hub_download(repository, file, revision=commit, force_download=True)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
            raise ModelError(
                f"{file} of {repository} is corrupt, and the hub cannot be reached for another",
                hint="check the network",
            ) from error

    return fetch


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_WANTED))
    except GatedRepoError as error:
        raise ModelError(
            f"{repository} is gated", hint="accept its licence on the hub, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{repository} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no folder and no model on the hub called {repository}",
            hint="check the spelling; private models need `hf auth login`",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{repository} is no folder here, and the hub cannot be reached to download it",
            hint="check the network, or give the path of a model folder",
        ) from error
