"""People's units in, SI out: `24 GB`, `100 Mb/s`, `20 ms`.

Always: a number without a unit is refused, because a guess would be wrong by a factor of eight or
a thousand; small b is bits, capital B is bytes, and prefixes are decimal unless written `Gi`.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

_PREFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

BYTES: Mapping[str, float] = MappingProxyType(
    {f"{prefix}B": size for prefix, size in {**_PREFIX, **_BINARY}.items()}
)
BYTES_PER_S: Mapping[str, float] = MappingProxyType(
    {f"{prefix}B/s": size for prefix, size in {**_PREFIX, **_BINARY}.items()}
    | {f"{prefix}b/s": size / 8 for prefix, size in _PREFIX.items()}
    | {f"{prefix}bit/s": size / 8 for prefix, size in _PREFIX.items()}
    | {f"{prefix}bps": size / 8 for prefix, size in _PREFIX.items()}
)
SECONDS: Mapping[str, float] = MappingProxyType(
    {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0}
)

_QUANTITY = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ/]*)\s*")


def quantity(text: str, units: Mapping[str, float]) -> float:
    """A number with its unit, in SI.

    Args:
        text: e.g. `24 GB`.
        units: Which units are allowed and how much SI one of them is.

    Raises:
        ValueError: With a message that says what would be right.
    """
    match = _QUANTITY.fullmatch(text)
    example = "GB" if "GB" in units else "Mb/s" if "Mb/s" in units else "ms"
    if match is None:
        raise ValueError(f"{text!r} is not a number with a unit, such as `24 {example}`")
    number, unit = match.groups()
    if not unit:
        raise ValueError(f"{text!r} has no unit; write `{text.strip()} {example}` if that is meant")
    if unit not in units:
        raise ValueError(f"unit {unit!r} is not one of {', '.join(_people_units(units))}")
    return float(number.replace("_", "")) * units[unit]


def _people_units(units: Mapping[str, float]) -> list[str]:
    return [unit for unit in units if unit in _COMMON] or list(units)


_COMMON = ("MB", "GB", "GiB", "kb/s", "Mb/s", "Gb/s", "MB/s", "GB/s", "s", "ms", "us")
