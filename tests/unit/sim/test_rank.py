"""Plan ranking against the full replays it stands for."""

import time
from dataclasses import replace

import pytest

from helix_p2p.cluster.reference import reference_snapshot
from helix_p2p.errors import ConfigError
from helix_p2p.planning.baselines import BASELINES
from helix_p2p.planning.planner import PlanOptions
from helix_p2p.sim.helix.replay import HelixRun, replay
from helix_p2p.sim.helix.routes import Scheduler
from helix_p2p.sim.helix.setup import published_setup, snapshot_setup
from helix_p2p.sim.rank import rank, rank_setups


def test_the_published_placements_rank_as_the_paper_measured_them():
    setups = [published_setup(f"single24/70b/{name}") for name in ("swarm", "ilp", "petals")]
    began_s = time.process_time()
    ranked = rank_setups(setups)
    each_s = (time.process_time() - began_s) / len(setups)
    assert [one.index for one in ranked] == [1, 2, 0]
    assert each_s < 5.0, "a second on a quiet core, with room for a busy one"
    assert ranked == rank_setups(setups)


def test_a_full_start_is_close_to_the_steady_state():
    setup = published_setup("single24/70b/petals")
    steady = replay(setup, HelixRun()).decode_tokens_per_s
    short = replay(setup, HelixRun(begin_full=True, warm_up_s=20.0, duration_s=60.0))
    assert short.decode_tokens_per_s == pytest.approx(steady, rel=0.1)
    assert max(short.kv_peak_share.values()) <= 1.0


def test_a_snapshot_is_ranked_by_its_own_measured_speeds():
    snapshot = reference_snapshot("single24", "70b")
    placements = [
        BASELINES[name](snapshot, PlanOptions(), None, None) for name in ("swarm", "petals")
    ]
    ranked = rank(snapshot, placements, window_s=30.0)
    assert [one.index for one in ranked] == [1, 0]
    assert all(one.decode_tokens_per_s > 0 for one in ranked)


def test_a_peer_of_which_only_its_rate_is_known_serves_at_that_rate():
    snapshot = reference_snapshot("single24", "70b")
    placement = BASELINES["petals"](snapshot, PlanOptions(), None, None)
    blind = replace(snapshot, peers=tuple(replace(p, speed=None) for p in snapshot.peers))
    setup = snapshot_setup(blind, placement)
    rates = {p.peer: p.tokens_per_s for p in blind.peers}
    for stage in setup.stages:
        layers = len(stage.layers)
        served = 10 / (layers * stage.decode_s[10])
        assert served == pytest.approx(rates[stage.peer][layers - 1])
    unknown = replace(blind, peers=tuple(replace(p, tokens_per_s=()) for p in blind.peers))
    with pytest.raises(ConfigError, match="how fast"):
        snapshot_setup(unknown, placement)


def test_nothing_to_rank_is_refused():
    with pytest.raises(ConfigError):
        rank(reference_snapshot("single24", "70b"), [])


@pytest.mark.parametrize(
    "wrong", [{"online": True, "arrival_tokens_per_s": 1.0}, {"scheduler": Scheduler.RANDOM}]
)
def test_only_an_admitting_closed_loop_begins_full(wrong):
    with pytest.raises(ConfigError):
        HelixRun(begin_full=True, **wrong)
