"""Fuzz one decoder in this process: `python -m tests.fuzz.run NAME FOLDER --seconds N`.

A decoder that hangs is ended by the kernel, after so much processor time that no stopped or busy
machine looks like it; `last` then holds the input.

With atheris (libFuzzer for Python) new inputs are bred from those that reached new code; without
it, from the kept ones by chance alone. What comes out goes to FOLDER: `result.json`, and new
inputs worth keeping below `inputs/`.
"""

import argparse
import base64
import contextlib
import hashlib
import importlib.util
import json
import math
import mmap
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

HAVE_ATHERIS = importlib.util.find_spec("atheris") is not None
MEMORY_EVERY = 16
OWN_MUTATOR_SHARE = 0.8
HANGS_CPU_S = 20.0
"""Two hundred times what an input may take."""
NO_LIMIT = 10**6


def main() -> None:
    """Fuzz, then write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--inputs", type=int, help="so many, instead of for some time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    given = parser.parse_args()
    tempfile.tempdir = str(given.folder)  # libFuzzer ends the process without any clean-up
    inputs = given.folder / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    fuzz = _coverage_guided if HAVE_ATHERIS and not given.plain else _by_chance
    fuzz(given, inputs)


def _coverage_guided(given: argparse.Namespace, inputs: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["helix_p2p", "base58"], enable_loader_override=False):
        from tests.fuzz import corpus, decoders, judge

    decoder = decoders.decoders()[given.name]
    most_bytes = min(decoder.limit_bytes + 1024, 128 * 1024)
    for data in [*decoder.seeds(), *corpus.load(given.name)]:
        if len(data) <= most_bytes:
            (inputs / hashlib.sha256(data).hexdigest()[:32]).write_bytes(data)
    judged = judge.Judge(decoder)
    watched = _watched(given.folder, judged, most_bytes)
    write = _writer(given.folder, judged)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < OWN_MUTATOR_SHARE:
            return decoder.mutate(data, random, size)
        return bytes(atheris.Mutate(data, size))

    last_s = time.monotonic()
    most = given.inputs or math.inf

    def one(data: bytes) -> None:
        nonlocal last_s
        watched(data)
        # libFuzzer ends the process as it likes, so the last of them are written one by one.
        if time.monotonic() - last_s > 1.0 or judged.inputs >= most - 8:
            last_s = time.monotonic()
            write()

    atheris.Setup(
        [
            "fuzz",
            f"-runs={given.inputs}" if given.inputs else f"-max_total_time={given.seconds:.0f}",
            f"-max_len={most_bytes}",
            f"-seed={given.seed}",
            f"-timeout={NO_LIMIT}",  # of the clock on the wall, as what it calls slow
            f"-report_slow_units={NO_LIMIT}",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
            f"-artifact_prefix={given.folder}/",
            str(inputs),
        ],
        one,
        custom_mutator=mutate,
    )
    sys.stdout.flush()
    atheris.Fuzz()


def _by_chance(given: argparse.Namespace, inputs: Path) -> None:
    from tests.fuzz import corpus, decoders, judge

    decoder = decoders.decoders()[given.name]
    judged = judge.Judge(decoder)
    most_bytes = decoder.limit_bytes + 1024
    watched = _watched(given.folder, judged, most_bytes)
    write, began_s = _writer(given.folder, judged), time.monotonic()
    known = [*decoder.seeds(), *corpus.load(given.name)]
    random = Random(given.seed)
    most = given.inputs or math.inf
    seconds = math.inf if given.inputs else given.seconds
    while judged.inputs < most and time.monotonic() - began_s < seconds:
        watched(decoder.mutate(random.choice(known), random, most_bytes))
    write()


def _watched(
    folder: Path,
    judged: "judge.Judge",  # noqa: F821
    most_bytes: int,
) -> Callable[[bytes], None]:
    """Judge one input after another; `folder/last` holds the one that is being read."""
    with (folder / "last").open("w+b") as file:
        file.truncate(8 + most_bytes)
        shown = mmap.mmap(file.fileno(), 0)

    def judge_one(data: bytes) -> None:
        shown[:8] = len(data).to_bytes(8, "little")
        shown[8 : 8 + len(data)] = data
        signal.setitimer(signal.ITIMER_PROF, HANGS_CPU_S)  # nobody handles it: it ends us
        judged(data, memory=judged.inputs % MEMORY_EVERY == 0)

    return judge_one


def last_input(folder: Path) -> bytes:
    """What was being read when the process ended."""
    shown = (folder / "last").read_bytes()
    return shown[8:][: int.from_bytes(shown[:8], "little")]


def _writer(folder: Path, judged: "judge.Judge") -> Callable[[], None]:  # noqa: F821
    began_s = time.process_time()

    def write() -> None:
        found = [
            {**vars(finding), "data": base64.b64encode(finding.data).decode()}
            for finding in judged.findings.values()
        ]
        result = {
            "inputs": judged.inputs,
            "accepted": judged.accepted,
            "worst_ms": judged.worst_s * 1000,
            "cpu_s": time.process_time() - began_s,
            "findings": found,
        }
        fresh = folder / "result.json.new"
        fresh.write_text(json.dumps(result))
        fresh.replace(folder / "result.json")

    return write


def edges_in(log: str) -> int:
    """The most edges that libFuzzer reports."""
    return max(map(int, re.findall(r"\bcov: (\d+)", log)), default=0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
    os._exit(0)
