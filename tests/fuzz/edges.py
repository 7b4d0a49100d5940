"""Which ways through the project's code an input takes, for choosing what is worth keeping.

Coverage is of line to line within `helix_p2p` (sys.settrace), and the outcome: which error, with
the digits and names of its text left out.
"""

import re
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

from tests.fuzz.decoder import Decoder

Edge = tuple[str, int, int]
_VARIABLE = re.compile(r"[0-9.]+|'[^']*'|12D3\w+|[0-9a-f]{12,}")


def edges_of(decoder: Decoder, data: bytes) -> set[Any]:
    """What one input reaches."""
    prepared = decoder.prepare(data)
    found: set[Any] = set()

    def watch(frame: FrameType, event: str, _arg: object) -> Any:
        path = frame.f_code.co_filename
        if "helix_p2p" not in path:
            return None
        last = frame.f_lineno

        def step(inner: FrameType, _event: str, _arg: object) -> Any:
            nonlocal last
            found.add((path, last, inner.f_lineno))
            last = inner.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        decoder.read(prepared)
        found.add("read")
    except Exception as error:  # noqa: BLE001 - the outcome counts as an edge
        found.add((type(error).__name__, _VARIABLE.sub("", str(error))[:80]))
    finally:
        sys.settrace(before)
    return found


def smallest_cover(decoder: Decoder, inputs: Iterable[bytes], most: int) -> tuple[list[bytes], int]:
    """A few inputs that together reach what all reach, and how many edges that is.

    Greedy: short ones first, each kept when it adds something (Chvátal's rule without the sort).
    """
    reached: set[Any] = set()
    kept: list[tuple[int, bytes]] = []
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        new = edges_of(decoder, data) - reached
        if new:
            kept.append((len(new), data))
            reached |= new
    kept.sort(key=lambda entry: -entry[0])
    return [data for _, data in kept[:most]], len(reached)
