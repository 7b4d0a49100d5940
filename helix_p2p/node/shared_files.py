"""The model's small files that clients may ask any member for.

Always: the manifest is among them, so that a client can check every other one by its hash.
"""

from pathlib import Path

from helix_p2p.cluster.manifest import MANIFEST_NAME, Manifest
from helix_p2p.errors import ModelError


def read_shared_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Contents by name.

    Raises:
        ModelError: One of them has gone or cannot be read.
    """
    files = {MANIFEST_NAME: manifest.encoded}
    for entry in manifest.shared_files():
        try:
            files[entry.name] = (folder / entry.name).read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read {folder / entry.name}: {error.strerror}") from error
    return files
