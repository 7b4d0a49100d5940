"""Every decoder of the project: what it reads, from which valid inputs, and what it may take.

A decoder's `prepare` does what the sender does (sign, frame, write to a file) and is not judged;
its `read` goes as deep as the production code does before somebody acts on the bytes. `again`
gives a decoded value's bytes and those of a second round, which must be equal.
"""

from functools import cache

from tests.fuzz.decoder import Decoder
from tests.fuzz.reading import files, frames, membership, shown, ways_in


@cache
def decoders() -> dict[str, Decoder]:
    """By name."""
    modules = (frames, membership, ways_in, shown, files)
    return {decoder.name: decoder for module in modules for decoder in module.DECODERS}
