"""Disks that fill up, files that are torn, weights that rot.

Always: what a crash may leave is made by real crashes (SIGKILL of a process that writes), not
imagined; a full disk is a real, small file system where there is root.
"""

import asyncio
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from helix_p2p.engine.manifest import read_manifest
from helix_p2p.errors import ConfigError, HelixError
from helix_p2p.node.state import HighWaterMark, StateDir
from tests.e2e.lab import lab
from tests.faults.arena import swarm_of, tiny_model
from tests.faults.table import CannotMeasure, Measured, Setting
from tests.hub import local_hub

SWARM = "swarm"


async def torn(setting: Setting) -> Measured:
    """Kill -9 of a process that raises its high-water mark as fast as it can."""
    crashes = setting.count(1000, 100)
    rng = random.Random(setting.seed)
    folder = setting.folder / "state"
    highest = found = mid_write = 0
    for number in range(crashes):
        told = await asyncio.to_thread(_crash, folder, highest, rng.uniform(0.0005, 0.01))
        mid_write += any(folder.glob(".*.new"))
        with StateDir(folder) as state:
            mark = state.high_water(SWARM)
        found = mark.order[0] if mark else 0
        assert found >= told, f"crash {number}: the mark fell from {told} to {found}"
        assert found >= highest, f"crash {number}: the mark fell from {highest} to {found}"
        highest = found
    assert highest > 0
    said = (
        f"{crashes} processes killed while they wrote ({mid_write} in the middle of a file): the "
        f"mark rose to {highest:,} and never fell, no file was unreadable"
    )
    return Measured(
        said, kept=True, figures={"crashes": crashes, "mid_write": mid_write, "mark": highest}
    )


def _crash(folder: Path, start: int, after_s: float) -> int:
    """Let a child write marks from `start` on, kill it; the last mark it said was on disk."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), StateDir(folder) as state:
            number = start
            while True:
                number += 1
                state.raise_high_water(HighWaterMark(SWARM, (number, bytes(32), bytes(32))))
                os.write(writer, number.to_bytes(8, "big"))
        os._exit(0)
    os.close(writer)
    try:
        first = os.read(reader, 8)  # it has begun
        time.sleep(after_s)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    rest = first
    while more := os.read(reader, 65536):
        rest += more
    os.close(reader)
    return int.from_bytes(rest[-8:], "big") if len(rest) >= 8 else start


async def full(setting: Setting) -> Measured:
    """A state folder on a file system that is full: a mark, and a whole peer."""
    with _small_disk(setting.folder / "disk") as disk:
        with StateDir(disk / "state") as state:
            state.raise_high_water(HighWaterMark(SWARM, (7, bytes(32), bytes(32))))
            _fill(disk)
            refused = 0
            for number in range(8, 108):
                try:
                    state.raise_high_water(HighWaterMark(SWARM, (number, bytes(32), bytes(32))))
                except ConfigError:
                    refused += 1
            held = state.high_water(SWARM)
            left = [p.name for p in (disk / "state").glob(".*.new")]
        assert held is not None
        kept = held.order[0] == 7 and refused == 100 and not left
        async with swarm_of(setting, tiny_model(), (100, 100)) as lab:
            ended = await lab.start(
                "full",
                "helix-peer",
                "join",
                lab.invite,
                "--json",
                "--host=127.0.0.1",
                f"--model={lab.model}",
                "--max-memory=100MB",
                "--device=cpu",
                f"--state-dir={disk / 'peer'}",
            )
            async with asyncio.timeout(60):
                status = await ended.process.wait()
                await asyncio.gather(*ended.readers)
    words = next((line for line in ended.errors if line.strip()), "")
    said = (
        f"{refused}/100 writes refused, the old mark stands, no temporary file left; a peer that "
        f"starts on the full disk ends with status {status} and says: {words[:120]}"
    )
    return Measured(said, kept and status != 0 and bool(words), {"refused": refused})


@contextlib.contextmanager
def _small_disk(path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        raise CannotMeasure("a file system of its own needs root")
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise CannotMeasure(f"no tmpfs can be mounted here: {error}") from error
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=False, capture_output=True)


def _fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(1024))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


async def rotten(setting: Setting) -> Measured:
    """Flip one byte in each region of the weights, one after another."""
    regions = setting.count(200, 30)
    rng = random.Random(setting.seed)
    model = setting.folder / "model"
    await asyncio.to_thread(shutil.copytree, tiny_model(), model)
    weights = model / "model.safetensors"
    truth = read_manifest(model, name="tiny").manifest_hash
    size, missed = weights.stat().st_size, 0
    for region in range(regions):
        at = region * size // regions + rng.randrange(max(1, size // regions))
        with weights.open("r+b") as file:
            old = _flip(file, at)
            try:
                missed += await asyncio.to_thread(_hash_of, model) == truth
            finally:
                file.seek(at)
                file.write(old)
    if missed:
        raise AssertionError(f"{missed} of {regions} flipped regions were not found")
    refused = await _rotten_folder(setting, model)
    mended = await _rotten_download(setting)
    return Measured(
        f"{regions}/{regions} flipped regions found; {mended}; {refused}",
        kept=True,
        figures={"regions": regions, "missed": missed},
    )


async def _rotten_folder(setting: Setting, model: Path) -> str:
    """A peer that is given a folder of the person's own with a rotten file never joins."""
    weights = model / "model.safetensors"
    async with swarm_of(setting, tiny_model(), (100, 100)) as lab:
        with weights.open("r+b") as file:
            _flip(file, weights.stat().st_size // 2)
        lab.model = model
        peer = await lab.peer("rotten", 100)
        async with asyncio.timeout(60):
            status = await peer.process.wait()
            await asyncio.gather(*peer.readers)
    words = next((line for line in peer.errors if line.strip()), "")
    if status == 0 or not words or any(event["event"] == "joined" for event in peer.events):
        raise AssertionError(f"a peer with a rotten folder ended with {status}: {words}")
    return f"one with a rotten folder of its own ends with status {status} and says why"


async def _rotten_download(setting: Setting) -> str:
    """A peer whose downloaded weights rot between two starts fetches them again and serves."""
    with local_hub(tiny_model()) as hub, tempfile.TemporaryDirectory() as home:
        folder = setting.folder / "download"
        folder.mkdir()
        async with lab(folder, Path(hub.repository)) as made:
            made.environment |= {
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": home,
                "HF_HUB_OFFLINE": "0",
                "XDG_CACHE_HOME": home,
            }
            await made.bootstrap()
            await made.peer("rotting", 100)
            await made.serving("rotting")
            before = hub.served["model.safetensors"]
            await made.stop("rotting")
            _rot(Path(home))
            began_s = time.monotonic()
            await made.restart("rotting")
            await made.serving("rotting")
            took_s = time.monotonic() - began_s
            fetched = hub.served["model.safetensors"] - before
    if fetched != 1:
        raise AssertionError(f"the rotten file was fetched {fetched} times")
    return (
        "a peer whose downloaded file rots while it is stopped, with the same size and time, "
        f"fetches it again and serves after {took_s:.1f} s"
    )


def _rot(home: Path) -> None:
    """Flip a byte of downloaded weights without touching size or time, as a failing disk does."""
    weights = next(home.glob("**/snapshots/*/model.safetensors"))
    stat = weights.stat()
    with weights.open("r+b") as file:
        _flip(file, stat.st_size // 2)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _flip(file, at: int) -> bytes:  # type: ignore[no-untyped-def]
    file.seek(at)
    old: bytes = file.read(1)
    file.seek(at)
    file.write(bytes([old[0] ^ 0x10]))
    file.flush()
    return old


def _hash_of(model: Path) -> str:
    """The manifest's hash, or the error that a damaged header gives."""
    try:
        return read_manifest(model, name="tiny").manifest_hash
    except HelixError as error:
        return error.code
