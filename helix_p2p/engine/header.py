"""The header of a safetensors file: which tensors it holds, and where.

Always: a file is taken as whole only if header and size agree to the byte.
"""

from pathlib import Path

import msgspec

from helix_p2p.errors import ModelError

HEADER_LIMIT_BYTES = 100_000_000
"""The safetensors library's own limit for a header."""

_HEADER = msgspec.json.Decoder(dict[str, dict[str, msgspec.Raw]])
_PLACE = msgspec.json.Decoder(tuple[int, int])


def read_header(path: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor lies behind the header, [start, end) in bytes; the file must be whole.

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
            header = _HEADER.decode(file.read(length))
            header.pop("__metadata__", None)
            places = {name: _PLACE.decode(it["data_offsets"]) for name, it in header.items()}
        except (msgspec.DecodeError, ValueError, KeyError, RecursionError) as error:
            raise broken from error
    if any(not 0 <= start <= end for start, end in places.values()):
        raise broken
    if size != 8 + length + max((end for _, end in places.values()), default=0):
        raise broken
    return places
