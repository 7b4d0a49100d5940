"""Rows that tests show: they are run, and their number is the figure."""

import re
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Awaitable, Callable

from tests.faults.table import Measured, Setting


def by_tests(*tests: str) -> Callable[[Setting], Awaitable[Measured]]:
    """Measure a row by these tests.

    Args:
        tests: As pytest takes them.
    """

    async def measure(setting: Setting) -> Measured:
        options = ("-q", "-p", "no:cacheprovider", f"--basetemp={setting.folder / 'pytest'}")
        status, words = await _run(setting, "-m", "pytest", *options, *tests)
        summary = re.sub(r" in [\d.]+s.*", "", words[-1]) if words else "pytest said nothing"
        if status:
            setting.say("\n".join(words[-30:]))
        return Measured(f"tests: {summary}", status == 0)

    return measure


async def mutations(setting: Setting) -> Measured:
    """Take out each safeguard in turn: `./scripts/mutate`."""
    chosen = ("fence",) if setting.quick else ()
    status, words = await _run(setting, "scripts/mutate", *chosen)
    for word in words:
        if "SURVIVED" in word or status not in (0, 1):
            setting.say(word)
    summary = re.sub(r" in \d+ s$", "", words[-1]) if words else "it said nothing"
    return Measured(summary, status == 0)


async def _run(setting: Setting, *arguments: str) -> tuple[int, list[str]]:
    """Exit status and lines of a Python program in the repository; ended if we are cancelled."""
    process = await create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=setting.repository,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, told.decode(errors="replace").strip().splitlines()
