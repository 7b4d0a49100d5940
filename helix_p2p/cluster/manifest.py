"""The model's manifest: which files make the model, and the one hash that names it in the swarm.

Two peers whose manifests have equal hashes hold equal weights; the hash stands in invites, plans
and announcements. A client that knows the hash can take the manifest, and through it the tokenizer
and the chat template, from any peer without trusting it.

The hash is over the canonical bytes (codec.py) of everything but the name: people call one model by
many names, and its folder as they like. What is stored and sent, `manifest.json`, is JSON, so that
people can read it.

Always: file names are plain names that cannot leave a folder, unique and ascending; hashes are
lower-case hex SHA-256.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

import msgspec

from helix_p2p import codec
from helix_p2p.codec import at_most
from helix_p2p.errors import DecodeError

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1
MOST_FILES = 4096
MANIFEST_LIMIT_BYTES = 1024 * 1024
SHARED_FILE_LIMIT_BYTES = 64 * 1024 * 1024
"""The largest tokenizer.json in common use is about 35 MB; a frame's payload ends at 64 MiB."""

SHARED_NAMES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
        "added_tokens.json",
    }
)
"""Files a client may need; weights are never shared this way."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_plain_name(name: str) -> bool:
    """Whether a file of a manifest may be called so."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of the model.

    Attributes:
        name: Plain file name within the model's folder.
        size_bytes: Exact size.
        sha256: Lower-case hex.
        shared: Whether peers hand it out to clients (small files only).
    """

    name: str
    size_bytes: int
    sha256: str
    shared: bool = False

    def __post_init__(self) -> None:
        if not is_plain_name(self.name):
            raise ValueError(f"not a plain file name: {self.name[:64]!r}")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.name}: not a hex SHA-256")
        if self.size_bytes < 0 or (self.shared and self.size_bytes > SHARED_FILE_LIMIT_BYTES):
            raise ValueError(f"{self.name}: a size of {self.size_bytes} bytes is not allowed")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the model is made of.

    Attributes:
        name: What people call it, `org/name` or a folder's name; no part of the hash.
        architecture: The model class in its configuration, e.g. `LlamaForCausalLM`.
        layers: Decoder layers L.
        vocab_size: Token ids are below this.
        context_tokens: Longest prompt plus answer.
        files: Every file that matters, ascending by name.
        format: Version of this format.
    """

    name: str
    architecture: str
    layers: int
    vocab_size: int
    context_tokens: int
    files: Annotated[tuple[ManifestFile, ...], at_most(MOST_FILES)]
    format: int = MANIFEST_FORMAT

    def __post_init__(self) -> None:
        if self.format != MANIFEST_FORMAT:
            raise ValueError(f"manifest format {self.format} is not known, only {MANIFEST_FORMAT}")
        if min(self.layers, self.vocab_size, self.context_tokens) < 1:
            raise ValueError("a model has layers, a vocabulary and a context")
        names = [file.name for file in self.files]
        if any(a >= b for a, b in pairwise(names)):
            raise ValueError("a manifest's files ascend by name, each once")

    @property
    def encoded(self) -> bytes:
        """The bytes of `manifest.json`."""
        return msgspec.json.encode(self, order="deterministic")

    @property
    def manifest_hash(self) -> str:
        """Hex SHA-256 over all but the name; what the model is called in the swarm."""
        body = codec.encode(replace(self, name=""))
        return codec.sha256(b"helix-p2p/manifest\x00" + body).hex()

    def file(self, name: str) -> ManifestFile | None:
        """The entry of one file."""
        return next((file for file in self.files if file.name == name), None)

    def shared_files(self) -> tuple[ManifestFile, ...]:
        """What a client may ask for."""
        return tuple(file for file in self.files if file.shared)


def make_manifest(
    *,
    name: str,
    architecture: str,
    layers: int,
    vocab_size: int,
    context_tokens: int,
    files: Iterable[ManifestFile],
) -> Manifest:
    """Build a manifest from files in any order."""
    ordered = tuple(sorted(files, key=lambda file: file.name))
    return Manifest(name, architecture, layers, vocab_size, context_tokens, ordered)


def decode_manifest(data: bytes, *, manifest_hash: str | None = None) -> Manifest:
    """Read the bytes of a `manifest.json`.

    Args:
        data: Bytes from a file or from a peer.
        manifest_hash: What the manifest must hash to, when that is known.

    Raises:
        DecodeError: Too long, not a manifest, or of another hash.
    """
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise DecodeError(f"a manifest of {len(data)} bytes; at most {MANIFEST_LIMIT_BYTES}")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError) as error:
        raise DecodeError(f"not a manifest: {error}") from error
    if manifest_hash is not None and manifest.manifest_hash != manifest_hash:
        raise DecodeError(f"this manifest is not the one of model {manifest_hash[:12]}")
    return manifest
