"""The fault table on paper: figures of the latest run of each row, kept between runs.

Always: docs/faults.md is written from docs/faults.json and nothing else; a row that never ran says
"not run", one that could not be measured says why.
"""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.table import Measured, Row
from tests.faults.threats import THREATS

INTRODUCTION = (
    "What helix-p2p promises when things go wrong, and what was measured. `./scripts/faults`",
    "causes every fault and writes this page; `./scripts/faults --list` names the rows, and",
    "`./scripts/faults kill freeze` runs two of them. Wall-clock figures depend on the machine:",
    "see [when and where](#when-and-where).",
    "",
)
Kept = dict[str, dict[str, Any]]


def load(path: Path) -> Kept:
    """Figures of earlier runs."""
    if not path.is_file():
        return {}
    read: Kept = json.loads(path.read_text(encoding="utf-8"))
    return read


def remember(kept: Kept, row: Row, measured: Measured, *, quick: bool, on: str, root: Path) -> None:
    """Add the figures of a run."""
    kept[row.name] = {
        **asdict(measured),
        "quick": quick,
        "on": on,
        "commit": _commit(root),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}",
        "load": round(os.getloadavg()[1], 1),
    }


def write(kept: Kept, rows: Sequence[Row], json_path: Path, page_path: Path) -> None:
    """Write both files."""
    ordered = {row.name: kept[row.name] for row in rows if row.name in kept}
    json_path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    page_path.write_text(_page(ordered, rows), encoding="utf-8")


def mark(kept: bool | None) -> str:
    """A verdict in a word."""
    return "·" if kept is None else "yes" if kept else "**no**"


def _page(kept: Kept, rows: Sequence[Row]) -> str:
    lines = [
        "# Faults",
        "",
        *INTRODUCTION,
        "| fault | required | measured | how | kept |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        got = kept.get(row.name)
        measured = "not run" if got is None else _said(got)
        verdict = "–" if got is None else mark(got["kept"])
        cells = (f"**{row.name}**: {row.fault}", row.required, measured, row.how, verdict)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    runs = [
        f"- {name}: {got['on']}, at {got['commit']}, {got['machine']}, {_load(got)}"
        for name, got in kept.items()
    ]
    lines += ["", "## When and where", "", *runs] if runs else []
    lines += ["", "## Threats", "", "Each is a test; `./scripts/test` runs them all.", ""]
    lines += ["| threat | defence | test |", "|---|---|---|"]
    for threat in THREATS:
        tests = ", ".join(f"`{test}`" for test in threat.tests) or "stated in README and SECURITY"
        lines.append(f"| {threat.threat} | {threat.defence} | {tests} |")
    return "\n".join(lines) + "\n"


def _said(got: dict[str, Any]) -> str:
    said = str(got["said"])
    return f"{said} (quick run)" if got["quick"] else said


def _load(got: dict[str, Any]) -> str:
    load = got.get("load")
    return "load not noted" if load is None else f"load average {load}"


def _commit(root: Path) -> str:
    told = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "no commit"
