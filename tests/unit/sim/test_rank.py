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
from helix_p2p.sim.rank import judge, rank, rank_setups


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


def test_a_slow_swarm_is_replayed_until_enough_requests_finished():
    slow = published_setup("geo24/30b/ilp-l4")
    short = HelixRun(begin_full=True, warm_up_s=20.0, duration_s=40.0)
    longer = replace(short, least_finished=20, longest_s=400.0)
    few, more = replay(slow, short), replay(slow, longer)
    assert few.window_s == 40.0
    assert more.window_s in {60.0 + 20.0 * n for n in range(18)}
    assert more.finished >= 20 > few.finished
    # Those of the warm-up do not count; what was seen before the window went on still does.
    assert more.decode_s[: len(few.decode_s)] == few.decode_s
    assert more.decode_tokens_per_s == len(more.decode_s) / more.window_s
    bounded = replay(slow, replace(longer, least_finished=10_000, longest_s=90.0))
    assert bounded.window_s == 90.0


def test_finals_see_more_of_other_requests_and_people_online_where_their_rate_is_known(monkeypatch):
    monkeypatch.setattr("helix_p2p.sim.rank.FINAL_FINISHED", 60)
    monkeypatch.setattr("helix_p2p.sim.rank.FINAL_ONLINE_S", 120.0)
    snapshot = reference_snapshot("geo24", "30b", only_kind="L4", mix="l4x8")
    placement = BASELINES["swarm"](snapshot, PlanOptions(), None, None)
    known = judge(arrival_tokens_per_s=15.0)
    assert (judge().finals, known.finals) == (2, 4)
    served = [known.serves(snapshot, placement, trial) for trial in range(5)]
    closed, online = (served[0], served[1], served[3]), (served[2], served[4])
    assert len({one.tokens_per_s for one in served}) == 5
    assert max(one.tokens_per_s for one in online) < min(one.tokens_per_s for one in closed)
    assert served[1] == judge().serves(snapshot, placement, 1)


@pytest.mark.parametrize(
    "wrong", [{"online": True, "arrival_tokens_per_s": 1.0, "longest_s": 900.0}, {"longest_s": 1.0}]
)
def test_only_an_offline_window_goes_on_and_no_longer_than_it_may(wrong):
    with pytest.raises(ConfigError, match="goes on"):
        HelixRun(least_finished=1, **wrong)


def test_nothing_to_rank_is_refused():
    with pytest.raises(ConfigError):
        rank(reference_snapshot("single24", "70b"), [])


@pytest.mark.parametrize(
    "wrong", [{"online": True, "arrival_tokens_per_s": 1.0}, {"scheduler": Scheduler.RANDOM}]
)
def test_only_an_admitting_closed_loop_begins_full(wrong):
    with pytest.raises(ConfigError):
        HelixRun(begin_full=True, **wrong)
