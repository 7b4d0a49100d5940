"""What a row of the fault table is: a fault, what is required, and how it is measured.

Always: a row's measurement runs in a folder of its own, ends everything that it started, and says
figures; that a row could not be measured is a figure too, never a silent pass.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

Figures = dict[str, float | int | str | None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a measurement is given.

    Attributes:
        folder: Its own, empty.
        repository: The checkout that is measured.
        quick: Show that the measurement works; its figures promise less.
        trials: As asked for on the command line; None takes the row's own number.
        seed: Of all chance.
        say: Tells the person who waits how far it is.
        report: What a benchmark wrote earlier, for rows that one shows; None runs it.
    """

    folder: Path
    repository: Path
    quick: bool
    trials: int | None
    seed: int
    say: Callable[[str], None]
    report: Path | None = None

    def count(self, full: int, quick: int) -> int:
        """How many trials to run."""
        return self.trials or (quick if self.quick else full)


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out.

    Attributes:
        said: The figures in words, for the table.
        kept: Whether what is required holds; None where it could not be measured here.
        figures: Raw numbers.
    """

    said: str
    kept: bool | None
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        name: On the command line.
        fault: What happens.
        required: What must hold then.
        how: How it is shown, in a few words.
        minutes: About how long the full measurement takes.
        measure: Does it.
    """

    name: str
    fault: str
    required: str
    how: str
    minutes: float
    measure: Callable[[Setting], Awaitable[Measured]]


class CannotMeasure(Exception):
    """The machine lacks something that the measurement needs (root, a kernel module)."""
