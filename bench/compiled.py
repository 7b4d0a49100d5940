"""The pure core as machine code, for long simulations: `./scripts/bench NAME --compiled`.

mypyc turns typed Python into C that does the same (docs/adr/0027). Interpreted Python stays what
peers, tests and checks run. A build is a copy of `helix_p2p` with extension modules beside their
sources, in `.cache/compiled/HASH`.

Always: the hash covers every file of the package, this one, Python, mypyc and the compiler, so a
build of other sources is never used; a build appears whole or not at all; what is computed is the
same to the bit (the trace hashes of tests/simulation/test_compiled.py).
"""

import contextlib
import hashlib
import io
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from helix_p2p.membership import member

if TYPE_CHECKING:
    from setuptools import Extension

ROOT = Path(__file__).parents[1]
BUILDS = ROOT / ".cache" / "compiled"
UNUSED_KEPT_S = 24 * 3600.0
"""A run reads from its build for as long as it lasts."""
OPTIMISE = "-O1"
"""As quick as -O2 here, in two thirds of the time."""
QUIET = ("-w", "-fwrapv", "-DNDEBUG", "-fPIC")

MODULES = """
.: codec identity types
membership: adoption announced attendance audit crowd detector disputes drafting duty
  election entry exclusion following gaps gossip inquiry liveness member office outbox
  outsiders own plannable pulls questions records replanning roster talk timing trust view voice
planning: links plan signed validate
routing: blame iwrr masks recheck route shares slowness standing
session: backpressure client client_values entry entry_choice familiar generation line open_sessions
  pace pipelines prefill_window prefixes reuse stage stage_frames steps window
sim: cell clock directory living loading mind network solving
sim/native: peer swarm workload
"""
"""What runs millions of times. Not among them: modules with dataclasses that are read from bytes
and hold other dataclasses (compiled classes forget the types of their fields; simulated peers are
handed messages, not frames), msgspec's structs, and generic dataclasses."""


class NotCompiled(click.ClickException):
    """The core could not be compiled, and why."""


def in_use() -> bool:
    """Whether this process runs the compiled core."""
    return not (member.__file__ or "").endswith(".py")


def sources() -> list[str]:
    """Paths of the modules that are compiled, from the root."""
    found, folder = [], ""
    for word in MODULES.split():
        if word.endswith(":"):
            folder = word.removesuffix(":")
        else:
            found.append((Path("helix_p2p") / folder / f"{word}.py").as_posix())
    return found


def folder() -> Path:
    """Where the build of the present sources is, or would be."""
    digest = hashlib.sha256()
    for said in (sys.version, platform.machine(), version("mypy"), *compiler()):
        digest.update(said.encode() + b"\0")
    package = sorted(p for p in (ROOT / "helix_p2p").rglob("*") if p.suffix != ".pyc")
    for path in (Path(__file__), *package):
        if path.is_file():
            content = path.read_bytes()
            name = path.relative_to(ROOT).as_posix()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return BUILDS / digest.hexdigest()[:20]


def compiler() -> list[str]:
    """The C compiler's command.

    Raises:
        NotCompiled: There is none.
    """
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        raise NotCompiled(f"there is no C compiler ({command[0]}): install gcc or clang, or set CC")
    return command


def build(jobs: int | None = None) -> Path:
    """Compile the present sources, unless that was done before.

    Args:
        jobs: Compilers at once; as many as there are cores where not given.

    Returns:
        What to put first on Python's path.

    Raises:
        NotCompiled: It failed, the sources changed meanwhile, or there is no compiler.
    """
    target = folder()
    if target.exists():
        target.touch()
        return target
    BUILDS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILDS, prefix="part-") as part:
        work, made = Path(part) / "c", Path(part) / "made"
        extensions = _generate(work)
        shutil.copytree(
            ROOT / "helix_p2p", made / "helix_p2p", ignore=shutil.ignore_patterns("__pycache__")
        )
        with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            list(pool.map(_object, _units(extensions, work)))
            list(pool.map(lambda extension: _link(extension, made), extensions))
        if folder() != target:
            raise NotCompiled("the sources changed while they were compiled; start again")
        with contextlib.suppress(OSError):  # another process was as quick
            made.rename(target)
    remove_unused(time.time())
    return target


def remove_unused(now_s: float) -> None:
    """Builds that no run began with for a day are removed."""
    for old in BUILDS.glob("[0-9a-f]*"):
        if now_s - old.stat().st_mtime > UNUSED_KEPT_S:
            shutil.rmtree(old, ignore_errors=True)


def _generate(work: Path) -> "list[Extension]":
    """Let mypyc write C."""
    from mypyc.build import mypycify  # a second, and only where something is built

    options = ["--config-file=", "--ignore-missing-imports", f"--cache-dir={work / 'types'}"]
    said = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            return mypycify(
                [*options, *sources()],
                only_compile_paths=sources(),
                multi_file=True,
                target_dir=str(work),
            )
        except SystemExit as error:
            raise NotCompiled(f"mypyc refused the sources: {error}\n{said.getvalue()}") from error


def _units(extensions: "Sequence[Extension]", work: Path) -> Iterator[tuple[str, list[str]]]:
    """Every C file with its options; the largest first."""
    include = [f"-I{work}", f"-I{sysconfig.get_path('include')}"]
    units = {
        str(source): [*include, *(f"-I{place}" for place in extension.include_dirs)]
        for extension in extensions
        for source in extension.sources
    }
    yield from sorted(units.items(), key=lambda unit: -Path(unit[0]).stat().st_size)


def _object(unit: tuple[str, list[str]]) -> None:
    source, options = unit
    _run([*compiler(), OPTIMISE, *QUIET, *options, "-c", source, "-o", f"{source}.o"])


def _link(extension: "Extension", made: Path) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    target = made / (extension.name.replace(".", "/") + suffix)
    linker = shlex.split(sysconfig.get_config_var("LDSHARED"))[1:]
    _run(
        [*compiler(), *linker, *(f"{source}.o" for source in extension.sources), "-o", str(target)]
    )


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise NotCompiled(f"{shlex.join(command)} failed:\n{done.stderr[-2000:]}")


@click.command()
@click.option("--jobs", type=int, help="Compilers at once; default: one for each core.")
def main(jobs: int | None) -> None:
    """Compile the pure core and print the folder that goes first on PYTHONPATH."""
    click.echo(build(jobs))


if __name__ == "__main__":
    main()
