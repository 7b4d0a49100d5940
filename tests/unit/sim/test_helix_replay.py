"""Helix mode against the artifact's figures and against its own rules."""

import itertools
from dataclasses import replace
from random import Random

import pytest

from helix_p2p.errors import ConfigError
from helix_p2p.sim.helix.reference import reference_rows, run_row
from helix_p2p.sim.helix.replay import HelixRun, replay
from helix_p2p.sim.helix.routes import Scheduler
from helix_p2p.sim.helix.setup import published_setup
from helix_p2p.sim.trace import draw_length, poisson_arrivals, trace_arrivals, trace_lengths
from helix_p2p.types import PeerId
from tests.unit.sim.setups import chain, stage


def row(case: str):
    return next(r for r in reference_rows() if r["case"] == case)


def test_one_token_takes_its_layers_and_its_hops():
    """5 layers of 1.02 ms and 3 hops of 10 ms, copies and transfers on top."""
    got = replay(
        chain(stage("a", 0, 2), stage("b", 2, 5)), HelixRun(scheduler=Scheduler.RANDOM, feed=1)
    )
    copies_s = 2 * 16384 * (1 / 4e9 + 1 / 5e9)
    transfer_s = (16384 + 2) / 1e9 + 2 * 2 / 1e9
    layers_s = 5 * 0.001 * 1.02
    assert min(got.decode_s) == pytest.approx(layers_s + 0.030 + copies_s + transfer_s, rel=1e-9)


@pytest.mark.parametrize(
    ("case", "within"),
    [
        ("geo24/70b/off/separate-a100", 0.01),
        ("single24/70b/off/separate-t4", 0.01),
        ("geo24/70b/off/swarm-placement+maxflow", 0.03),
        ("geo24/70b/off/swarm", 0.04),
    ],
)
def test_a_row_comes_out_as_in_the_artifact(case, within):
    result = run_row(row(case))
    assert max(map(abs, result.errors)) <= within


@pytest.mark.parametrize(("rate", "queries"), [(10, 18), (240, 440), (320, 584), (700, 1293)])
def test_arrivals_number_as_many_as_the_artifact_finished(rate, queries):
    assert sum(1 for _ in trace_arrivals(Random(0), rate, 0.0, 1800.0)) == queries


def test_poisson_arrivals_ask_for_the_rate():
    arrivals = list(poisson_arrivals(Random(3), 500.0, 0.0, 20000.0))
    asked = sum(a.length.input_tokens + a.length.output_tokens for a in arrivals)
    assert asked / 20000.0 == pytest.approx(500.0, rel=0.03)
    assert all(a.at_s <= b.at_s for a, b in itertools.pairwise(arrivals))


def test_the_trace_is_whole():
    assert len(trace_lengths()) == 16657
    assert draw_length(Random(1)) in trace_lengths()


def test_equal_seeds_give_equal_hashes_and_others_do_not():
    setup = published_setup("geo24/70b/ilp")
    run = HelixRun(duration_s=60.0)
    assert replay(setup, run).trace_hash() == replay(setup, run).trace_hash()
    assert replay(setup, run).trace_hash() != replay(setup, replace(run, seed=1)).trace_hash()


def test_what_finds_no_room_for_its_whole_answer_waits_and_is_served_later():
    whole = published_setup("single24/70b/ilp")
    stages = (replace(s, kv_layer_tokens=s.kv_layer_tokens // 10) for s in whole.stages)
    small = replace(whole, stages=tuple(stages))
    run = HelixRun(feed=100, duration_s=60.0, reserves=True)
    got = replay(small, run)
    assert got.longest_queue > 0
    assert (got.dropped, got.refused) == (0, 0)
    assert got.finished > 0
    assert max(got.kv_peak_share.values()) <= 1.0
    assert replay(whole, run).longest_queue == 0


def test_only_whole_routes_can_be_reserved():
    with pytest.raises(ConfigError, match="whole routes"):
        HelixRun(scheduler=Scheduler.SWARM, reserves=True)


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_equal_admission_keeps_every_scheduler_within_memory(scheduler):
    setup = published_setup("geo24/70b/ablation")
    run = HelixRun(scheduler=scheduler, feed=400, duration_s=120.0, equal_admission=True)
    got = replay(setup, run)
    assert got.decode_tokens_per_s > 0
    assert max(got.kv_peak_share.values()) <= 1.0


def test_without_admission_a_baseline_overfills_a_small_cache():
    got = replay(
        chain(stage("a", 0, 2, kv=20_000), stage("b", 2, 5)),
        HelixRun(scheduler=Scheduler.RANDOM, feed=60),
    )
    assert got.kv_peak_share[PeerId("a")] > 1.0


def test_online_overload_waits_and_is_refused_where_the_artifact_stops():
    """1600 tokens/s ended there in `No next level node meets scheduling requirement`."""
    setup = published_setup("single24/70b/ilp")
    run = HelixRun(online=True, arrival_tokens_per_s=8000.0, warm_up_s=0.0, duration_s=300.0)
    got = replay(setup, run)
    assert got.longest_queue == 1024
    assert got.refused > 0
    assert max(got.kv_peak_share.values()) <= 1.0


def test_measured_load_follows_the_flow():
    got = replay(published_setup("single24/70b/ilp"), HelixRun())
    total = sum(e.measured_tokens_per_s for e in got.edges if e.source is None)
    planned = sum(e.flow_tokens_per_s for e in got.edges if e.source is None)
    for edge in got.edges:
        if edge.source is None and edge.flow_tokens_per_s > 0.1 * planned:
            share = edge.measured_tokens_per_s / total
            assert share == pytest.approx(edge.flow_tokens_per_s / planned, rel=0.15)


@pytest.mark.parametrize(
    "wrong",
    [{"online": True}, {"feed": 0}, {"duration_s": 0.0}, {"warm_up_s": -1.0}],
)
def test_impossible_runs_are_refused(wrong):
    with pytest.raises(ConfigError):
        HelixRun(**wrong)


def test_an_unknown_placement_is_refused():
    with pytest.raises(ConfigError, match="single24/70b/ilp"):
        published_setup("single24/70b/none")
