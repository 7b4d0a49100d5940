"""Reading single tensors out of a model folder's safetensors, sharded or not.

Always: nothing is read but what is asked for, and what is read is what the manifest stands for,
where there is a guard; tensors are views of the mapped file until someone copies them; a file that
breaks gives a `ModelError`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from helix_p2p.engine.hashes import WeightGuard
from helix_p2p.engine.header import read_header
from helix_p2p.engine.manifest import weight_files
from helix_p2p.errors import ModelError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder's tensors by name.

    Attributes:
        folder: Where they lie.
        files: Tensor name to the file that holds it.
        guard: Checks what is read; None where nobody vouches for the files.
    """

    folder: Path
    files: dict[str, Path]
    guard: WeightGuard | None = None

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Tensors by name, on the CPU, as they are stored.

        Raises:
            ModelError: A file is corrupt or has gone.
        """
        by_file = defaultdict(list)
        for name in names:
            by_file[self.files[name]].append(name)
        tensors = {}
        for path, wanted in by_file.items():
            try:
                tensors.update(self._read(path, wanted))
            except ModelError:
                if self.guard is None or not self.guard.mend(path):
                    raise
                tensors.update(self._read(path, wanted))  # it was fetched again
        return tensors

    def _read(self, path: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                tensors = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"cannot read {path}: {error}", hint="download it again") from error
        if self.guard is not None:
            self.guard.check(path, tensors)
        return tensors


def open_checkpoint(folder: Path, guard: WeightGuard | None = None) -> Checkpoint:
    """List a folder's tensors; reads headers only.

    Raises:
        ModelError: The folder is not whole.
    """
    files = {name: path for path in weight_files(folder) for name in read_header(path)}
    return Checkpoint(folder, files, guard)


def check_layers(checkpoint: Checkpoint, layers: str, count: int, ignored: Iterable[str]) -> None:
    """Whether the files hold the layers that the configuration speaks of, no fewer and no more.

    Args:
        checkpoint: Its names.
        layers: Name of the list, e.g. `layers`.
        count: Layers by the configuration.
        ignored: Patterns of names that the model's class does not want (more heads, for example).

    Raises:
        ModelError: They do not.
    """
    patterns = [re.compile(pattern) for pattern in ignored]
    names = [n for n in checkpoint.files if not any(p.search(n) for p in patterns)]
    found = {index for name in names if (index := layer_of(name, layers)) is not None}
    hint = "config.json and weights do not belong together, or a download is not whole"
    if missing := set(range(count)) - found:
        raise ModelError(
            f"{checkpoint.folder} has no weights for {len(missing)} of {count} layers, first "
            f"{min(missing)}",
            hint=hint,
        )
    if beyond := found - set(range(count)):
        raise ModelError(
            f"{checkpoint.folder} has weights for layer {max(beyond)}, its config.json for {count} "
            "layers",
            hint=hint,
        )


def layer_of(name: str, layers: str) -> int | None:
    """The decoder layer that a tensor belongs to, None outside the layers.

    Args:
        name: E.g. `model.layers.3.mlp.up_proj.weight`.
        layers: Name of the list, e.g. `layers`.
    """
    found = re.search(rf"(?:^|\.){re.escape(layers)}\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def renumber(name: str, layers: str, number: int) -> str:
    """The tensor's name with its layer's index replaced."""
    pattern = rf"((?:^|\.){re.escape(layers)}\.)\d+\."
    return re.sub(pattern, lambda found: f"{found.group(1)}{number}.", name, count=1)
