"""Twelve production machines through a swarm's life, in virtual time."""

import pytest

from tests.simulation.membership_lab import Lab


@pytest.mark.parametrize("seed", range(6))
def test_swarm_keeps_one_plan_through_crash_leave_rejoin_and_partition(seed: int) -> None:
    lab = Lab(seed, 12, loss=0.05, skew_s=5, drift=0.03, bootstraps=1)
    lab.start_all()
    assert lab.run_until(lab.converged, 60) is not None
    lab.run(30)
    assert len(lab.planners()) == 1

    lab.crash(lab.planners()[0])
    assert lab.run_until(lab.converged, 30) is not None, "no take-over"

    crashed = next(p for p in lab.live if p not in lab.planners() and p.layers)
    lab.crash(crashed)
    assert lab.run_until(lab.converged, 60) is not None
    lab.start(crashed)
    assert lab.run_until(lab.converged, 60) is not None

    lab.leave(next(p for p in lab.live if p not in lab.planners() and p.layers))
    assert lab.run_until(lab.converged, 60) is not None
    lab.leave(lab.planners()[0])
    assert lab.run_until(lab.converged, 60) is not None

    for number, p in enumerate(lab.live):
        p.side = int(number < 4)
    both = lab.run_until(lambda: lab.converged(side=0) and lab.converged(side=1), 90)
    assert both is not None, "a side of the partition has no plan of its own"
    for p in lab.peers:
        p.side = 0
    assert lab.run_until(lab.converged, 60) is not None, "the sides do not merge"
    lab.run(30)
    assert lab.converged()
    assert len(lab.planners()) == 1
