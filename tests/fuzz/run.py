"""Fuzz one decoder in this process: `python -m tests.fuzz.run NAME FOLDER --seconds N`.

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
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

HAVE_ATHERIS = importlib.util.find_spec("atheris") is not None
MEMORY_EVERY = 16
OWN_MUTATOR_SHARE = 0.8


def main() -> None:
    """Fuzz, then write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=30)
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
    write = _writer(given.folder, judged, time.monotonic())

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < OWN_MUTATOR_SHARE:
            return decoder.mutate(data, random, size)
        return bytes(atheris.Mutate(data, size))

    last_s = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal last_s
        judged(data, memory=judged.inputs % MEMORY_EVERY == 0)
        if time.monotonic() - last_s > 1.0:
            last_s = time.monotonic()
            write()

    atheris.Setup(
        [
            "fuzz",
            f"-max_total_time={max(1, round(given.seconds))}",
            f"-max_len={most_bytes}",
            f"-seed={given.seed}",
            "-timeout=20",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
            f"-artifact_prefix={given.folder}/",
            str(inputs),
        ],
        one,
        custom_mutator=mutate,
    )
    sys.stdout.flush()
    import atexit

    atexit.register(write)
    atheris.Fuzz()


def _by_chance(given: argparse.Namespace, inputs: Path) -> None:
    from tests.fuzz import corpus, decoders, judge

    decoder = decoders.decoders()[given.name]
    judged = judge.Judge(decoder)
    write = _writer(given.folder, judged, began_s := time.monotonic())
    known = [*decoder.seeds(), *corpus.load(given.name)]
    random = Random(given.seed)
    while time.monotonic() - began_s < given.seconds:
        data = decoder.mutate(random.choice(known), random, decoder.limit_bytes + 1024)
        judged(data, memory=judged.inputs % MEMORY_EVERY == 0)
    write()


def _writer(folder: Path, judged: "judge.Judge", began_s: float) -> Callable[[], None]:  # noqa: F821
    def write() -> None:
        found = [
            {**vars(finding), "data": base64.b64encode(finding.data).decode()}
            for finding in judged.findings.values()
        ]
        result = {
            "inputs": judged.inputs,
            "accepted": judged.accepted,
            "worst_ms": judged.worst_s * 1000,
            "seconds": time.monotonic() - began_s,
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
