"""Reading single tensors out of a model folder's safetensors, sharded or not.

Always: nothing is read but what is asked for; tensors are views of the mapped file until someone
copies them; a file that breaks gives a `ModelError`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from helix_p2p.engine.manifest import read_header, weight_files
from helix_p2p.errors import ModelError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder's tensors by name.

    Attributes:
        folder: Where they lie.
        files: Tensor name to the file that holds it.
    """

    folder: Path
    files: dict[str, Path]

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
                with safe_open(path, framework="pt", device="cpu") as file:
                    tensors.update({name: file.get_tensor(name) for name in wanted})
            except (SafetensorError, OSError) as error:
                raise ModelError(
                    f"cannot read {path}: {error}", hint="download it again"
                ) from error
        return tensors


def open_checkpoint(folder: Path) -> Checkpoint:
    """List a folder's tensors; reads headers only.

    Raises:
        ModelError: The folder is not whole.
    """
    files = {name: path for path in weight_files(folder) for name in read_header(path)}
    return Checkpoint(folder, files)


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
