"""Strict reading of hand-written TOML: every key is asked for, every mistake is named.

Always: a `Table` refuses what nobody asked for, and whatever is wrong ends as one `ConfigError`
with file, line (tomllib keeps none, so `line_index` finds them again), field, and the nearest
right name.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from helix_p2p.cluster.units import quantity
from helix_p2p.errors import ConfigError

Place = tuple[str | int, ...]
"""Where something stands: keys, and positions in arrays of tables."""


def read_text(path: Path, limit_bytes: int) -> str:
    """A hand-written file.

    Raises:
        ConfigError: It cannot be read, is larger than that, or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(raw) > limit_bytes:
        raise ConfigError(f"{path}: {len(raw)} bytes are more than the {limit_bytes} allowed")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from error


def open_toml(text: str, source: str) -> "Table":
    """The root table of a TOML text.

    Args:
        text: TOML.
        source: How errors call it.

    Raises:
        ConfigError: It is not TOML.
    """
    try:
        data = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"{source}: not valid TOML: nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError is one, and so is a number of 5000 digits
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    return Table(Source(source, line_index(text)), (), data)


@dataclass(frozen=True, slots=True)
class Source:
    """A file's name and where things stand in it."""

    name: str
    lines: Mapping[Place, int]


class Table:
    """One table of the file, read key by key; `finish` refuses what nobody asked for."""

    def __init__(self, source: Source, path: Place, data: Mapping[str, Any]) -> None:
        self._source = source
        self._path = path
        self._data = data
        self._asked: set[str] = set()

    def take(self, key: str, kinds: tuple[type, ...], *, required: bool = False) -> Any:
        """The value under a key, of one of these kinds; None where absent."""
        self._asked.add(key)
        if key not in self._data:
            if required:
                self.fail(key, "is missing")
            return None
        value = self._data[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.fail(key, f"{value!r} is not {' or '.join(_KIND[kind] for kind in kinds)}")
        return value

    def text(self, key: str, *, default: str | None = None) -> str:
        """1 to 100 characters; required unless there is a default."""
        value = self.take(key, (str,), required=default is None)
        if value is None:
            return default or ""
        if not value.strip() or len(value) > 100:
            self.fail(key, "needs 1 to 100 characters")
        return str(value)

    def whole(self, key: str, *, default: int | None = None, most: int = 10**9) -> int:
        """A whole number from 1 to `most`; required unless there is a default."""
        value = self.take(key, (int,), required=default is None)
        if value is None:
            return default or 0
        if not 1 <= value <= most:
            self.fail(key, f"{value} is not between 1 and {most}")
        return int(value)

    def quantity(
        self, key: str, units: Mapping[str, float], *, required: bool = False
    ) -> float | None:
        """A number with a unit, in SI; None where absent."""
        value = self.take(key, (str, int, float), required=required)
        return None if value is None else self.converted(key, value, units)

    def converted(self, key: str, value: object, units: Mapping[str, float]) -> float:
        """A value with its unit, in SI."""
        try:
            return self.positive(key, quantity(str(value), units))
        except ValueError as error:
            self.fail(key, str(error))

    def positive(self, key: str, value: object) -> float:
        """A finite number above zero."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(key, f"{value!r} is not a number")
        if not value > 0:
            self.fail(key, f"{value!r} is not above zero")
        if value > sys.float_info.max:  # infinity, or a whole number of 400 digits
            self.fail(key, "is too large")
        return float(value)

    def inner(self, key: str, data: Mapping[str, Any]) -> "Table":
        """A table in this table."""
        return Table(self._source, (*self._path, key), data)

    def tables(self, key: str, *, required: bool = False) -> Iterable["Table"]:
        """The entries of an array of tables."""
        entries = self.take(key, (list,), required=required) or []
        if required and not entries:
            self.fail(key, "is empty")
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict):
                self.fail(key, f"entry {number + 1} is not a table; write it as [[{key}]]")
            yield Table(self._source, (*self._path, key, number), entry)

    def finish(self) -> None:
        """Refuse keys that mean nothing here."""
        for key in self._data:
            if key not in self._asked:
                self.fail(key, "is not a key here", near=(key, self._asked))

    def fail(
        self, key: str | None, why: str, *, near: tuple[str, Iterable[str]] | None = None
    ) -> NoReturn:
        """Stop with file, line, field, reason and the nearest right name."""
        path = self._path if key is None else (*self._path, key)
        line = next(
            (
                self._source.lines[path[:n]]
                for n in range(len(path), 0, -1)
                if path[:n] in self._source.lines
            ),
            None,
        )
        where = self._source.name if line is None else f"{self._source.name}:{line}"
        hint = None
        if near is not None:
            word, known = near[0], sorted(near[1])
            close = get_close_matches(word, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {listed(known)}"
        raise ConfigError(f"{where}: {_spelled(path)}: {why}", hint=hint)


_KIND: Mapping[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def listed(names: Iterable[object]) -> str:
    """Up to twelve names, for a message."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "")


def _spelled(path: Place) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


_HEADER = re.compile(r"\s*\[(\[?)\s*([A-Za-z0-9_.\-]+)\s*\]?\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_\-]+)\s*=")


def line_index(text: str) -> Mapping[Place, int]:
    """Where each table and key begins; best effort, for messages only."""
    lines: dict[Place, int] = {}
    counts: dict[str, int] = {}
    at: Place = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            if header[1]:
                counts[header[2]] = counts.get(header[2], -1) + 1
            at = _absolute(header[2], counts)
            lines.setdefault(at, number)
        elif key := _KEY.match(line):
            lines.setdefault((*at, key[1]), number)
    return lines


def _absolute(name: str, counts: Mapping[str, int]) -> Place:
    path: Place = ()
    for part in name.split("."):
        path = (*path, part)
        spelled = ".".join(p for p in path if isinstance(p, str))
        if spelled in counts:
            path = (*path, counts[spelled])
    return path
