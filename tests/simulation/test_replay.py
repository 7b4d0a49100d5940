"""The same seed gives the same run, in any process: no hash order, no set order, no clock."""

import os
import subprocess
import sys

RUN = """
from tests.simulation.test_living_swarm import swarm_of
swarm = swarm_of(8, 5)
swarm.time.at(20.0, swarm.crash, sorted(swarm.minds)[2])
swarm.time.at(30.0, swarm.restart, sorted(swarm.minds)[2])
swarm.time.run(45.0)
print(swarm.time.trace_hash(), swarm.time.events, swarm.member_bytes)
"""

STORM = """
from tests.simulation.cabal import unleash
from tests.simulation.storm import Storm, Weather
lab = Storm(3, Weather(12, 3, 0.05))
lab.start_all()
lab.run(20.0)
lab.watch()
unleash(lab)
lab.run(25.0)
print(lab.sent, lab.seen, sorted((p.number, p.last_order) for p in lab.peers if p.last_order))
"""


def outputs(program: str) -> set[str]:
    """What a program prints under two seeds of Python's hashes."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    said = {run.communicate(timeout=120)[0] for run in runs}
    assert all(run.returncode == 0 for run in runs)
    return said


def test_whole_swarm_leaves_the_same_trace_whatever_the_hash_seed() -> None:
    assert len(outputs(RUN)) == 1


def test_storm_goes_the_same_way_whatever_the_hash_seed() -> None:
    assert len(outputs(STORM)) == 1
