"""From what a person calls a model, a folder or `org/name[@revision]`, to a folder on this disk.

Always: only configuration, tokenizer and safetensors are downloaded, never code or pickles.
"""

import re
from collections.abc import Callable
from pathlib import Path

from helix_p2p.cluster.manifest import SHARED_NAMES
from helix_p2p.engine.manifest import INDEX_FILE, read_config
from helix_p2p.errors import ModelError

_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_WANTED = ["*.safetensors", INDEX_FILE, *sorted(SHARED_NAMES)]


def find_model(named: str) -> tuple[str, Path]:
    """The model's name for people, and its folder, downloaded if it must be.

    Args:
        named: A folder, or `org/name` on the Hugging Face hub, with `@revision` if wanted.

    Raises:
        ModelError: No such folder or repository, or it cannot be reached.
    """
    folder = Path(named).expanduser()
    if folder.is_dir():
        read_config(folder)
        return folder.resolve().name, folder
    found = _REPOSITORY.fullmatch(named)
    if found is None or named.startswith((".", "/", "~")):
        raise ModelError(f"no model folder at {named}", hint="check the path given with --model")
    repository, revision = found.groups()
    return repository, _download(repository, revision)


def refetcher(named: str) -> Callable[[str], None] | None:
    """How to download one file of a model again; None for a folder of the person's own.

    Args:
        named: As in `find_model`.
    """
    found = _REPOSITORY.fullmatch(named)
    if found is None or Path(named).expanduser().is_dir():
        return None
    repository, revision = found.groups()

    def fetch(file: str) -> None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            hf_hub_download(repository, file, revision=revision, force_download=True)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
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
