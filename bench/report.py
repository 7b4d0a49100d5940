"""How a benchmark reports: a line per promise as it is measured, a table at the end, JSON if asked.

Always: a line states value, target and whether it holds; the process's exit status is 1 when one
does not, so that a benchmark can stand in CI.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Line:
    """One measured promise.

    Attributes:
        group: What it belongs to.
        name: What was measured.
        value: The figure, as shown.
        target: What was promised; empty for a figure without one.
        holds: Whether it is kept; None where there is no target.
        figures: The raw numbers, for JSON.
    """

    group: str
    name: str
    value: str
    target: str = ""
    holds: bool | None = None
    figures: dict[str, float | int | str | None] = field(default_factory=dict)


class Report:
    """Collects lines and shows them."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.lines: list[Line] = []
        self._console = Console(stderr=True)
        self._began_s = time.perf_counter()

    def add(self, line: Line) -> None:
        """Keep a line and say it at once on stderr."""
        self.lines.append(line)
        mark = _mark(line.holds)
        target = f" [dim](target {escape(line.target)})[/]" if line.target else ""
        self._console.print(
            f"{mark} {escape(line.group)}: {escape(line.name)}: {escape(line.value)}{target}",
            soft_wrap=True,
        )

    @contextmanager
    def guarded(self, group: str, name: str) -> Iterator[None]:
        """A failure inside becomes a line that does not hold; the others are still measured."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (whatever breaks one promise must not hide others)
            self.add(Line(group, name, f"{type(error).__name__}: {error}", "no error", holds=False))

    def finish(self, json_path: Path | None) -> int:
        """Print the table, write JSON, and return the exit status."""
        table = Table(title=self.title, title_justify="left", box=None, header_style="bold")
        for name in ("", "", "measured", "target", ""):
            table.add_column(name, overflow="fold")
        group = ""
        for line in self.lines:
            shown = line.group if line.group != group else ""
            group = line.group
            cells = (shown, line.name, line.value, line.target)
            table.add_row(*(escape(cell) for cell in cells), _mark(line.holds))
        Console(width=None if Console().is_terminal else 150).print(table)
        missed = sum(line.holds is False for line in self.lines)
        kept = sum(line.holds is True for line in self.lines)
        seconds = time.perf_counter() - self._began_s
        self._console.print(f"{kept} kept, {missed} missed, in {seconds:.0f} s")
        if json_path is not None:
            said = {
                "title": self.title,
                "machine": {
                    "cpus": os.cpu_count(),
                    "python": platform.python_version(),
                    "system": platform.platform(),
                },
                "seconds": seconds,
                "lines": [asdict(line) for line in self.lines],
            }
            json_path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        return 1 if missed else 0


def _mark(holds: bool | None) -> str:
    return "[dim]·[/]" if holds is None else "[green]✓[/]" if holds else "[red]✗[/]"
