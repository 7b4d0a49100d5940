"""People's units, in one place: sizes and rates as they are typed, SI inside.

Always: bytes are written with B and bits with bit, b or bps; a bare `20M` is refused rather than
guessed, because it is wrong by a factor of eight half of the time. k, M, G, T are powers of 1000;
Ki, Mi, Gi, Ti powers of 1024.
"""

import re

import click

_FACTORS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY_FACTORS = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_NUMBER = r"(?P<number>\d+(?:\.\d+)?|\.\d+)"
_SIZE = re.compile(_NUMBER + r"\s*(?P<prefix>[kmgt]?)(?P<binary>i?)B?", re.IGNORECASE)
_RATE = re.compile(
    _NUMBER + r"\s*(?P<prefix>[kKmMgG]?)(?P<unit>bit/s|bits/s|b/s|bps|B/s|Bps|bit|iB/s)"
)


def parse_size(text: str) -> int:
    """Bytes of `8GB`, `512 MiB`, `1.5g`, `1000`.

    Raises:
        ValueError: It is no size; the message says what is.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or (found["binary"] and not found["prefix"]):
        raise ValueError(f"{text!r} is not a size; write for example 8GB or 512MiB")
    factors = _BINARY_FACTORS if found["binary"] else _FACTORS
    return int(float(found["number"]) * factors[found["prefix"].lower()])


def parse_rate(text: str) -> float:
    """Bytes per second of `20Mbit/s`, `20Mbps`, `2.5MB/s`, `2MiB/s`.

    Raises:
        ValueError: It is no rate, or says neither bits nor bytes.
    """
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{text!r} is not a rate; write for example 20Mbit/s (bits) or 2.5MB/s (bytes)"
        )
    prefix, unit = found["prefix"].lower(), found["unit"]
    if unit.startswith("i"):
        if not prefix:
            raise ValueError(f"{text!r} is not a rate; write for example 2MiB/s")
        return float(found["number"]) * _BINARY_FACTORS[prefix]
    per_s = float(found["number"]) * _FACTORS[prefix]
    return per_s if unit.startswith("B") else per_s / 8


def format_size(size_bytes: float) -> str:
    """`8.0 GB`, `113 MB`, `12 kB`, `7 B`."""
    for factor, name in ((1e12, "TB"), (1e9, "GB")):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {name}"
    for factor, name in ((1e6, "MB"), (1e3, "kB")):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.0f} {name}"
    return f"{size_bytes:.0f} B"


def format_rate(bytes_per_s: float) -> str:
    """In bits, as providers sell it: `20 Mbit/s`."""
    bits = bytes_per_s * 8
    for factor, name in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits >= factor:
            return f"{bits / factor:.3g} {name}"
    return f"{bits:.0f} bit/s"


def format_duration(seconds: float) -> str:
    """`0.8 ms`, `1.2 s`, `3 min 20 s`, `2 h 05 min`, `4 d 3 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


class SizeParam(click.ParamType[int]):
    """A size on the command line, int bytes inside."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse once; a default that is a number already stays one."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class RateParam(click.ParamType[float]):
    """A rate on the command line, float bytes per second inside."""

    name = "rate"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse once; a default that is a number already stays one."""
        if isinstance(value, float):
            return value
        try:
            return parse_rate(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
