"""People's units on the command line: what is typed becomes SI, what is shown becomes readable.

Always: the units are those of cluster/units.py, where a bare `20M` is refused rather than guessed,
because it is wrong by a factor of eight half of the time.
"""

import click

from helix_p2p.cluster.units import BYTES, BYTES_PER_S, quantity


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
            return int(quantity(str(value), BYTES))
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
            return quantity(str(value), BYTES_PER_S)
        except ValueError as error:
            self.fail(str(error), param, ctx)
