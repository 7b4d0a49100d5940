"""Rows that tests show: they are run, and their number is the figure."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable

from tests.faults.table import Measured, Setting


def by_tests(*tests: str) -> Callable[[Setting], Awaitable[Measured]]:
    """Measure a row by these tests.

    Args:
        tests: As pytest takes them.
    """

    async def measure(setting: Setting) -> Measured:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"--basetemp={setting.folder / 'pytest'}", *tests),
            cwd=setting.repository,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            told, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        words = told.decode(errors="replace").strip().splitlines()
        summary = re.sub(r" in [\d.]+s.*", "", words[-1]) if words else "pytest said nothing"
        if process.returncode:
            setting.say("\n".join(words[-30:]))
        return Measured(f"tests: {summary}", process.returncode == 0)

    return measure
