"""The kept inputs: one text file per decoder, one input per line, so that a change can be read.

A line is base64 of the input, compressed where that is shorter (then with a `z` before it). What
was once a finding stands there too, so that it is read again with every test.
"""

import base64
import zlib
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def load(name: str, folder: Path = FOLDER) -> list[bytes]:
    """The kept inputs of a decoder."""
    path = folder / f"{name}.txt"
    return [_unpacked(line) for line in path.read_text().split()] if path.is_file() else []


def save(name: str, inputs: Iterable[bytes], folder: Path = FOLDER) -> None:
    """Keep these, short ones first, each once."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(set(inputs), key=lambda data: (len(data), data))
    lines = "".join(f"{_packed(data)}\n" for data in ordered)
    (folder / f"{name}.txt").write_text(lines)


def _packed(data: bytes) -> str:
    small = zlib.compress(data, 9)
    if len(small) < len(data):
        return "z" + "." + base64.b64encode(small).decode()
    return "." + base64.b64encode(data).decode()


def _unpacked(line: str) -> bytes:
    how, _, text = line.partition(".")
    data = base64.b64decode(text, validate=True)
    return zlib.decompress(data) if how == "z" else data
