"""What a node tells the application that runs it, for people and for logs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """Something a person may want to know.

    Attributes:
        name: Stable and machine-readable: `joined`, `state`, `plan`, `waiting`, `planner`,
            `member-joined`, `member-lost`, `measured`, `clock`, `moving`, `advice`, `trouble`.
        text: The same in words, one line.
        data: JSON-able details.
    """

    name: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


OnEvent = Callable[[NodeEvent], None]


def ignore(_event: NodeEvent) -> None:
    """For callers that do not care."""
