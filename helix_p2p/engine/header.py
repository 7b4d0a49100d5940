"""The header of a safetensors file: which tensors it holds, and where.

Always: a file is taken as whole only if header and size agree to the byte.
"""

import json
from pathlib import Path
from typing import Any

from helix_p2p.errors import ModelError

HEADER_LIMIT_BYTES = 100_000_000
"""The safetensors library's own limit for a header."""


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
