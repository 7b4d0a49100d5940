"""Native mode: the production machines serve, in virtual time."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from helix_p2p.session.backpressure import FULL_BYTES
from helix_p2p.session.generation import EntryLimits
from helix_p2p.session.messages import Refused
from helix_p2p.session.stage import StageLimits
from helix_p2p.sim.helix.figures import percentiles
from helix_p2p.sim.helix.replay import HelixRun
from helix_p2p.sim.helix.setup import HelixSetup, LinkSetup, published_setup
from helix_p2p.sim.native.swarm import ServingRules, ServingSwarm
from helix_p2p.sim.native.workload import Workload, room_for, serve
from helix_p2p.sim.scenario import ClusterChoice, setup_of
from tests.unit.sim.setups import chain, doubled, stage


def test_one_client_waits_for_layers_and_hops_alone():
    setup = chain(stage("a", 0, 2), stage("b", 2, 5), latency_s=0.01)
    got = serve(setup, HelixRun(feed=1, warm_up_s=0.0, duration_s=20.0))
    assert got.finished >= 1
    # 5 layers of 1.02 ms; a → b, b → a with the token, a → client; copies and sending on top.
    # Between two tokens the way to the client overlaps the next step.
    assert min(got.decode_s) == pytest.approx(5 * 0.00102 + 0.020, rel=0.02)


def test_equal_seeds_give_equal_runs():
    run = HelixRun(feed=8, warm_up_s=0.0, duration_s=20.0)
    hashes = {serve(doubled(), replace(run, seed=seed)).trace_hash() for seed in (1, 1, 2)}
    assert len(hashes) == 2


def test_load_follows_the_planned_shares():
    got = serve(doubled(), HelixRun(feed=12, warm_up_s=0.0, duration_s=60.0))
    into = {str(e.target): e.measured_tokens_per_s for e in got.edges if str(e.target)[0] == "c"}
    assert set(into) == {"c1", "c2"}
    assert max(into.values()) < 1.5 * min(into.values())


def test_memory_is_never_overfilled_and_what_does_not_fit_waits():
    tight = chain(stage("a", 0, 2, kv=8_000), stage("b", 2, 5, kv=12_000))
    got = serve(tight, HelixRun(feed=20, warm_up_s=0.0, duration_s=60.0))
    assert got.finished > 5
    assert got.longest_queue > 5
    assert max(got.kv_peak_share.values()) <= 1.0


def test_online_overload_waits_and_is_refused_with_a_type():
    """At 1600 tokens/s the artifact stops: `No next level node meets scheduling requirement`."""
    rules = ServingRules(entry=EntryLimits(waiting_sessions=8, waiting_s=5.0))
    slow = chain(stage("a", 0, 2, kv=20_000, decode_s=0.02), stage("b", 2, 5, kv=30_000))
    swarm = ServingSwarm(slow, rules)
    run = HelixRun(online=True, arrival_tokens_per_s=1600.0, warm_up_s=0.0, duration_s=120.0)
    work = Workload(swarm, run, limits=None)
    work.start()
    swarm.time.run(1500.0)
    assert work.outcome.finished > 0
    assert work.outcome.refused > 0
    assert work.outcome.failed == 0
    assert work.running == 0, "every client was answered or refused"


def test_a_chunked_long_prompt_does_not_hold_up_decoding():
    whole = ServingRules(
        entry=EntryLimits(prefill_chunk_tokens=4096), stage=StageLimits(prefill_tokens=4096)
    )
    setup = chain(stage("a", 0, 6), stage("b", 6, 12))
    run = HelixRun(feed=10, warm_up_s=0.0, duration_s=60.0)
    chunked, unchunked = serve(setup, run), serve(setup, run, whole)
    assert sorted(chunked.decode_s)[-20] < sorted(unchunked.decode_s)[-20]


def test_the_papers_cluster_is_served():
    setup = published_setup("geo24/70b/ilp")
    got = serve(setup, HelixRun(feed=40, warm_up_s=20.0, duration_s=20.0))
    assert got.decode_tokens_per_s > 20
    assert room_for(setup) > 200


def test_prefill_for_a_thin_link_waits_uncomputed_and_decoding_goes_on():
    """One hop of 2 MB/s: 16 kB per token, so a prompt of 1000 tokens is 8 s of it."""
    names = [None, "a", "b", None]
    links = tuple(
        LinkSetup(x, y, 0.01, 2e6 if (x, y) == ("a", "b") else 1e9, 100.0)
        for x, y in pairwise(names)
    )
    setup = HelixSetup(12, 16384, (stage("a", 0, 6), stage("b", 6, 12)), links)
    swarm = ServingSwarm(setup)
    work = Workload(swarm, HelixRun(feed=24, warm_up_s=0.0, duration_s=400.0))
    work.start()
    queued, waiting = [], []
    for second in range(400):
        swarm.time.run(float(second))
        queued.append(swarm.network.queued_bytes("a", "b"))
        waiting.append(swarm.peers["a"].stage.waiting_positions)
    steps_bytes = 4 * 256 * 16384  # what was being computed, and decode, which goes on
    assert FULL_BYTES < max(queued) < FULL_BYTES + steps_bytes
    assert max(waiting) < 20_000
    assert work.outcome.failed == 0
    figures = work.figures()
    assert figures.finished > 10
    chunk_s = 256 * 16384 / 2e6
    assert percentiles(figures.decode_s)[2] < 1.2 * chunk_s  # behind one chunk at most
    assert all(peer.entry.stats.repairs == 0 for peer in swarm.peers.values())


def test_prompts_of_a_flooded_cluster_take_seconds():
    """All at once they put 5 GB on one link and were fed again and again: 49 s, 99 tokens/s."""
    setup = published_setup("geo24/70b/ilp")
    swarm = ServingSwarm(setup)
    work = Workload(swarm, HelixRun(feed=room_for(setup), warm_up_s=0.0, duration_s=60.0))
    work.start()
    swarm.time.run(60.0)
    streams = [(a, b) for a in swarm.peers for b in swarm.peers]
    assert max(swarm.network.queued_bytes(a, b) for a, b in streams) < 64e6
    assert sum(peer.entry.stats.repairs for peer in swarm.peers.values()) == 0
    assert percentiles(work.figures().prompt_s)[0] < 5.0
    assert len(work.figures().decode_s) > 2000


def test_what_stopped_the_artifact_waits_or_is_refused_with_a_type():
    """1600 tokens/s on single24: `No next level node meets scheduling requirement`, KV exceeded."""
    rules = ServingRules(entry=EntryLimits(waiting_sessions=2, waiting_s=1.0))
    whole = published_setup("single24/70b/petals")
    stages = (replace(s, kv_layer_tokens=s.kv_layer_tokens // 10) for s in whole.stages)
    swarm = ServingSwarm(replace(whole, stages=tuple(stages)), rules)  # full within seconds
    refusals, answer = Counter(), swarm.answer

    def look(source, messages):
        refusals.update(m.failure.code for m in messages if isinstance(m, Refused))
        answer(source, messages)

    swarm.answer = look
    run = HelixRun(online=True, arrival_tokens_per_s=1600.0, warm_up_s=0.0, duration_s=40.0)
    work = Workload(swarm, run)
    work.start()
    swarm.time.run(45.0)
    figures = work.figures()
    assert work.outcome.finished > 0
    assert work.outcome.failed == 0
    assert figures.longest_queue > 0
    assert set(refusals) == {"busy"}
    assert max(figures.kv_peak_share.values()) <= 1.0


@pytest.mark.parametrize(
    ("model", "name"), [("70b", "petals"), ("70b", "swarm"), ("30b", "separate")]
)
def test_no_placement_of_the_papers_cluster_is_infeasible(model, name):
    setup = setup_of(ClusterChoice("single24", model, None), name)
    held = [0] * setup.layers
    for one in setup.stages:
        assert one.kv_layer_tokens > 0, "weights leave room for a KV cache"
        for layer in one.layers:
            held[layer] += 1
    assert min(held) >= 1
    assert setup.max_flow_tokens_per_s > 0
