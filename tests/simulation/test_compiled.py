"""The compiled core does what the interpreted one does, to the bit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import compiled

ROOT = Path(__file__).parents[2]
RUNS = """
from bench import compiled
from bench.storm import one
from helix_p2p.sim.helix.replay import HelixRun
from helix_p2p.sim.helix.setup import published_setup
from helix_p2p.sim.native.swarm import ServingSwarm
from helix_p2p.sim.native.workload import Workload
from helix_p2p.sim.volunteers import volunteers

living, parted = volunteers(80, 3), volunteers(40, 3, cells=2)
for swarm in (living, parted):
    swarm.time.run(30.0)
    swarm.churn(0.2, 60.0, 90.0, 20.0)
serving = ServingSwarm(published_setup("single24/70b/ilp"), None, 1)
print("compiled" if compiled.in_use() else "interpreted")
for swarm, run in (
    (living, HelixRun(feed=5, seed=3, warm_up_s=0.0, duration_s=60.0)),
    (parted, HelixRun(feed=5, seed=3, warm_up_s=0.0, duration_s=120.0)),
    (serving, HelixRun(feed=60, seed=1, warm_up_s=0.0, duration_s=40.0)),
):
    work = Workload(swarm, run)
    work.start()
    swarm.time.run(swarm.time.now_s + run.duration_s + 5.0)
    figures = work.figures()
    assert figures.finished > 0 and figures.events > 10_000
    print(swarm.time.trace_hash(), figures.events, figures.finished, sum(figures.decode_s))
lives = [one(seed, 24) for seed in range(6)]
assert any(life.weather.hostile for life in lives)
for life in lives:
    print(life.seen, life.broken, life.virtual_s)
"""


def printed(*first_on_path: Path) -> list[str]:
    path = os.pathsep.join(map(str, (*first_on_path, ROOT)))
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUNS],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_compiled_core_gives_the_same_traces():
    try:
        command = compiled.compiler()
    except compiled.NotCompiled as error:
        pytest.skip(error.message)
    assert shutil.which(command[0])
    fast, slow = printed(compiled.build()), printed()
    assert (fast[0], slow[0]) == ("compiled", "interpreted")
    assert fast[1:] == slow[1:]


def test_a_missing_compiler_is_said_in_one_line(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(compiled.NotCompiled, match=r"no-such-compiler.*install gcc or clang"):
        compiled.compiler()


def test_every_file_of_the_package_is_part_of_a_builds_name(monkeypatch, tmp_path):
    shutil.copytree(
        ROOT / "helix_p2p", tmp_path / "helix_p2p", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "bench").mkdir()
    shutil.copy(compiled.__file__, tmp_path / "bench" / "compiled.py")
    monkeypatch.setattr(compiled, "ROOT", tmp_path)
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "bench" / "compiled.py"))
    before = compiled.folder()
    assert compiled.folder() == before
    changed = tmp_path / "helix_p2p" / "types.py"
    changed.write_text(changed.read_text() + "\n# changed\n")
    assert compiled.folder() != before


def test_builds_that_nobody_uses_go_after_a_day(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "BUILDS", tmp_path)
    (tmp_path / "0a").mkdir()
    (tmp_path / "1b").mkdir()
    now_s = (tmp_path / "1b").stat().st_mtime
    os.utime(tmp_path / "0a", (now_s - 90_000.0, now_s - 90_000.0))
    compiled.remove_unused(now_s)
    assert [path.name for path in tmp_path.iterdir()] == ["1b"]


def test_all_modules_that_are_compiled_exist():
    assert [path for path in compiled.sources() if not (ROOT / path).is_file()] == []
