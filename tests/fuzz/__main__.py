"""`./scripts/fuzz`: all decoders, two at a time, and a table of what came out.

Each decoder runs in a process of its own (run.py), so that a crash or a hang is one decoder's. New
inputs that reach new code, and every finding, join the corpus with `--keep`.
"""

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.fuzz import corpus
from tests.fuzz.decoders import decoders
from tests.fuzz.edges import smallest_cover
from tests.fuzz.run import HAVE_ATHERIS, edges_in, last_input

KEPT_PER_DECODER = 24
SMALL_BYTES = 12_000
CANDIDATES = 600
DEADLINE_S = 6 * 3600.0
"""Decoders wait for nothing; one that hangs is ended by the processor time it takes (run.py)."""


@dataclass(frozen=True)
class Outcome:
    """What came of one decoder; `result` is None when its process did not end by itself."""

    name: str
    result: dict[str, Any] | None
    edges: int
    crash: str


RUNNING: set[subprocess.Popen[bytes]] = set()
"""Ended with us, whatever ends us."""


def fuzz(name: str, folder: Path, how: Sequence[str]) -> Outcome:
    """Run one decoder's process."""
    command = [sys.executable, "-m", "tests.fuzz.run", name, str(folder), *how]
    folder.mkdir(parents=True)
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as done,
    ):
        RUNNING.add(done)
        done.wait(DEADLINE_S)
        RUNNING.discard(done)
    said = (folder / "log").read_text(errors="replace")
    crashes = [
        path.name
        for path in folder.iterdir()
        if path.name.startswith(("crash", "timeout", "oom", "slow"))
    ]
    crash = f"{', '.join(crashes)}: {said[-2000:]}" if crashes or done.returncode else ""
    if done.returncode == -signal.SIGPROF:
        crash = f"hangs, on {base64.b64encode(last_input(folder)).decode()[:4000]}"
    path = folder / "result.json"
    return Outcome(
        name, json.loads(path.read_text()) if path.is_file() else None, edges_in(said), crash
    )


def keep(name: str, folder: Path, result: dict[str, Any]) -> None:
    """Add what is worth it to the corpus."""
    decoder = decoders()[name]
    found = [base64.b64decode(finding["data"]) for finding in result["findings"]]
    fresh = [path.read_bytes() for path in (folder / "inputs").iterdir()]
    fresh = sorted((data for data in fresh if len(data) <= SMALL_BYTES), key=len)[:CANDIDATES]
    known = corpus.load(name)
    kept, _ = smallest_cover(decoder, [*known, *fresh, *decoder.seeds()], KEPT_PER_DECODER)
    corpus.save(name, [*kept, *corpus.load(f"{name}-found"), *found])


def main() -> int:
    """Fuzz, and show the table."""
    parser = argparse.ArgumentParser(prog="./scripts/fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="for each decoder (30)")
    parser.add_argument("--inputs", type=int, help="for each decoder, instead of so many seconds")
    parser.add_argument(
        "--decoder", action="append", metavar="NAME", help="this one only; may be repeated"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--seed", type=int, default=1, help="of chance (1)")
    parser.add_argument(
        "--keep", action="store_true", help="add new inputs and findings to the corpus"
    )
    parser.add_argument("--list", action="store_true", help="name the decoders and end")
    given = parser.parse_args()
    unknown = set(given.decoder or ()) - decoders().keys()
    if unknown:
        parser.error(f"no decoder {', '.join(sorted(unknown))}; there are {', '.join(decoders())}")
    names: Sequence[str] = given.decoder or list(decoders())
    if given.list:
        print("\n".join(names))
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):  # or our folder would stay
        signal.signal(number, signal.default_int_handler)
    console = Console()
    if not HAVE_ATHERIS:
        console.print("atheris is not installed: inputs are bred by chance, without coverage")
    how = [f"--seconds={max(1.0, given.seconds)}", f"--seed={given.seed}"]
    how += [f"--inputs={given.inputs}"] if given.inputs else []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="helix-fuzz-") as top, Progress(transient=True) as bar:
        task = bar.add_task("fuzzing", total=len(names))

        def one(name: str) -> Outcome:
            outcome = fuzz(name, Path(top) / name, how)
            if given.keep and outcome.result is not None:
                keep(name, Path(top) / name, outcome.result)
            bar.advance(task)
            return outcome

        with ThreadPoolExecutor(given.jobs) as pool:
            try:
                outcomes = list(pool.map(one, names))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(RUNNING):
                    process.kill()
                raise
    return _show(console, outcomes, time.monotonic() - began_s)


def _show(console: Console, outcomes: list[Outcome], seconds: float) -> int:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("decoder", "inputs", "inputs/CPU s", "valid", "edges", "worst ms", "findings"):
        table.add_column(heading, justify="left" if heading == "decoder" else "right")
    inputs = findings = 0
    for it in outcomes:
        if it.result is None:
            table.add_row(it.name, "-", "-", "-", "-", "-", "no result")
            continue
        said = it.result
        inputs += said["inputs"]
        found = len(said["findings"]) + bool(it.crash)
        findings += found
        rate = said["inputs"] / max(said["cpu_s"], 1e-9)
        cells = (f"{rate:.0f}", str(said["accepted"]), str(it.edges or "-"))
        table.add_row(it.name, str(said["inputs"]), *cells, f"{said['worst_ms']:.1f}", str(found))
    console.print(table)
    console.print(f"{inputs} inputs in {seconds:.0f} s, {findings} findings")
    for it in outcomes:
        if it.crash or it.result is None:
            console.print(f"[red]{it.name}[/] {it.crash}", markup=True)
        for finding in (it.result or {}).get("findings", []):
            where = f"{finding['what']} {finding['where']}"
            console.print(f"{it.name}: {where}: {finding['detail']}", markup=False)
            console.print(f"  {finding['data'][:400]}", markup=False)
    return 1 if findings or any(it.result is None for it in outcomes) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
