"""`./scripts/faults`: run rows of the fault table and write docs/faults.md.

Always: a row that fails does not stop the others; what a row started has ended before the next one
begins, also on Ctrl-C; the exit status is 1 when a row that ran is not kept.
"""

import argparse
import asyncio
import contextlib
import datetime
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tests.faults import report
from tests.faults.rows import ROWS
from tests.faults.table import CannotMeasure, Measured, Row, Setting

ROOT = Path(__file__).resolve().parents[2]
CONSOLE = Console(file=sys.stderr, highlight=False)


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows of these names, all without any; ends the program on an unknown one."""
    known = {row.name: row for row in ROWS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(
            f"faults: there is no row {unknown[0]}; there are: {', '.join(known)}", file=sys.stderr
        )
        sys.exit(2)
    return [known[name] for name in names] or list(ROWS)


async def measure(row: Row, options: argparse.Namespace) -> Measured:
    """One row, in a folder of its own; whatever breaks is its result."""
    log = Path(tempfile.gettempdir()) / f"helix-faults-{row.name}.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as work:
        setting = Setting(
            folder=Path(work),
            repository=ROOT,
            quick=options.quick,
            trials=options.trials,
            seed=options.seed,
            say=lambda text: CONSOLE.print(f"  [dim]{escape(text)}[/]"),
            report=options.report,
        )
        try:
            with log.open("a") as words, contextlib.redirect_stderr(words):
                measured = await row.measure(setting)
            return replace(measured, said=measured.said.replace(work, "…"))
        except CannotMeasure as reason:
            return Measured(f"not measured here: {reason}", None)
        except Exception as error:  # noqa: BLE001 - one row's failure must not hide the others
            with log.open("a") as words:
                words.write(traceback.format_exc())
            CONSOLE.print(f"  [dim]what its processes said: {log}[/]", soft_wrap=True)
            first = (str(error).splitlines() or [""])[0][:200]
            return Measured(f"failed: {type(error).__name__}: {first}", kept=False)


async def run(rows: Sequence[Row], options: argparse.Namespace) -> bool:
    """Run rows one after another; whether all that ran are kept."""
    json_path, page_path = options.json, options.page
    holds = True
    for row in rows:
        CONSOLE.print(f"[bold]{row.name}[/]: {escape(row.fault)} (about {row.minutes:g} min)")
        began_s = time.monotonic()
        measured = await measure(row, options)
        holds &= measured.kept is not False
        style = {True: "green", False: "red", None: "yellow"}[measured.kept]
        CONSOLE.print(
            f"  [{style}]{report.mark(measured.kept).strip('*')}[/] {escape(measured.said)} "
            f"[dim]({time.monotonic() - began_s:.0f} s)[/]",
            soft_wrap=True,
        )
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        kept = report.load(json_path)  # another run may have added rows meanwhile
        report.remember(kept, row, measured, quick=options.quick, on=today, root=ROOT)
        report.write(kept, ROWS, json_path, page_path)
    return holds


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to run; all by default")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--quick", action="store_true", help="few trials of each row")
    parser.add_argument("--trials", type=int, help="this many trials instead of each row's own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--report", type=Path, help="what `./scripts/bench soak --json` wrote, for the row soak"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "faults.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "faults.md")
    options = parser.parse_args()
    if options.list:
        for row in ROWS:
            print(f"{row.name:12} {row.minutes:4g} min  {row.fault}")
        return 0
    # in the background of a script SIGINT is ignored, and every peer would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return 0 if asyncio.run(run(chosen(options.rows), options)) else 1
    except KeyboardInterrupt:
        CONSOLE.print("faults: stopped; what was started has ended")
        return 130


if __name__ == "__main__":
    sys.exit(main())
