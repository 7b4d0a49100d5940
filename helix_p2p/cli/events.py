"""What a running node has to say, as it happens: lines for people, or lines of JSON for programs.

Always: stdout carries events and nothing else, one line each, flushed at once; a progress bar is
shown only where a person looks (a terminal), and never in between the lines.
"""

import asyncio
import json
import time
from collections.abc import Callable

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from helix_p2p.cli.errors import one_line
from helix_p2p.node.events import NodeEvent
from helix_p2p.node.status import NodeStatus

_REFRESH_S = 0.5


class EventPrinter:
    """Shows a node's events.

    Args:
        as_json: Lines of JSON, `{"event": name, …data}`, instead of words.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False)

    def show(self, event: NodeEvent) -> None:
        """Print one event; this is a node's `OnEvent`."""
        if self._as_json:
            said = {**event.data, "event": event.name, "text": event.text, "unix_s": time.time()}
            click.echo(json.dumps(said, default=str))
        else:
            clock = time.strftime("%H:%M:%S")
            self._console.print(f"{clock}  {one_line(event.text)}", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print lines for people only."""
        if not self._as_json:
            self._console.print(text, markup=False, soft_wrap=True)

    async def follow(self, status: Callable[[], NodeStatus]) -> None:
        """Show progress below the lines until cancelled; nothing where nobody looks."""
        if self._as_json or not self._console.is_terminal:
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        ) as progress:
            task = progress.add_task("", total=None, amount="")
            while True:
                now = status()
                total, done, amount = _progress(now)
                progress.update(
                    task, description=now.state, total=total, completed=done, amount=amount
                )
                await asyncio.sleep(_REFRESH_S)


def _progress(status: NodeStatus) -> tuple[float | None, float, str]:
    """(total or None for a pulse, done, in words)."""
    match status.state:
        case "loading" if status.to_hold is not None:
            total = status.to_hold[1] - status.to_hold[0]
            return total, status.loaded_layers, f"{status.loaded_layers} of {total} layers"
        case "serving":
            sessions = status.stage_sessions
            words = f"{sessions} {'session' if sessions == 1 else 'sessions'}"
            return 1.0, status.kv_used, f"{words}, KV cache {status.kv_used:.0%}"
        case "draining":
            return None, 0.0, f"{status.entry_sessions + status.stage_sessions} sessions to finish"
        case _:
            return None, 0.0, status.detail
