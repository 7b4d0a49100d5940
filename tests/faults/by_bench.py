"""Rows that a benchmark shows: it is run, or the report that it wrote earlier is read.

Always: a row is kept when every line of the report that promises something holds; what does not
hold is said by name.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from tests.faults.table import Figures, Measured, Setting

QUICK_MINUTES = 4
FULL_MINUTES = 60


async def soak(setting: Setting) -> Measured:
    """An hour of mixed load, or what `./scripts/bench soak --json` wrote after one."""
    if setting.report is not None:
        return said_by_soak(json.loads(setting.report.read_text(encoding="utf-8")))
    minutes = setting.count(FULL_MINUTES, QUICK_MINUTES)
    written = setting.folder / "soak.json"
    await _bench(setting, "soak", f"--minutes={minutes}", f"--json={written}")
    return said_by_soak(json.loads(written.read_text(encoding="utf-8")))


def said_by_soak(report: dict[str, Any]) -> Measured:
    """The row that a report of `bench soak` gives."""
    lines = report["lines"]
    missed = [f"{line['group']}: {line['name']} {line['value']}" for line in lines if _missed(line)]
    value = {(line["group"], line["name"]): line["value"] for line in lines}
    requests = next(line["figures"] for line in lines if line["name"] == "requests")
    most = {what: _most(lines, what) for what in ("memory", "descriptors", "threads")}
    memory, descriptors = most["memory"], most["descriptors"]
    said = (
        f"{report['title']}: {sum(requests.values())} requests, {value['load', 'tokens']} tokens, "
        f"errors: {value['load', 'errors']}; same seed: {value['load', 'same seed']}; after the "
        f"warm-up the most that any process grew: memory {memory[0]:+.1%} ({memory[1]}), "
        f"{descriptors[2]:+.0f} descriptors ({descriptors[1]}), {most['threads'][2]:+.0f} threads; "
        f"KV rooms: {value['end', 'KV rooms']}"
    )
    figures: Figures = {f"{what}_growth": figure for what, (figure, _, _) in most.items()}
    return Measured("; missed: ".join([said, *missed]), not missed, figures)


async def _bench(setting: Setting, name: str, *options: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"bench.{name}", *options),
        cwd=setting.repository,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=sys.stderr,
    )
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _missed(line: dict[str, Any]) -> bool:
    return line["holds"] is False


def _most(lines: Sequence[dict[str, Any]], what: str) -> tuple[float, str, float]:
    """The largest growth of a kind: as a share, of which process, and by how much."""
    grown = [
        (
            line["figures"]["late"] / line["figures"]["early"] - 1,
            str(line["name"]),
            line["figures"]["late"] - line["figures"]["early"],
        )
        for line in lines
        if line["group"] == what
    ]
    by_share = what == "memory"
    return max(grown, key=lambda one: one[0] if by_share else one[2])
