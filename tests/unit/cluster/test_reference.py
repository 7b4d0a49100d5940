import pytest

from helix_p2p.cluster.reference import (
    CLUSTERS,
    MODELS,
    batch_limits,
    client_links,
    published_placements,
    reference_model,
    reference_snapshot,
)
from helix_p2p.errors import ConfigError


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_reference_snapshot_is_whole(cluster: str, model: str) -> None:
    snapshot = reference_snapshot(cluster, model)
    assert len(snapshot.peers) == {"high42": 42, "quality10": 10}.get(cluster, 24)
    for profile in snapshot.peers:
        most = len(profile.tokens_per_s)
        assert most * snapshot.model.layer_bytes < profile.memory_bytes
        assert profile.speed is not None
    assert set(client_links(cluster)) == {profile.peer for profile in snapshot.peers}


def test_throughput_is_that_of_the_cluster_mix() -> None:
    by_kind = {p.kind: p.tokens_per_s for p in reference_snapshot("single24", "70b").peers}
    assert by_kind["A100"][7] == 2045.641
    assert len(by_kind["T4"]) == 4
    alone = reference_snapshot("single24", "30b", only_kind="L4", mix="l4x8")
    assert {p.kind for p in alone.peers} == {"L4"}
    assert alone.peers[0].tokens_per_s[7] == 214.9814


def test_geo24_joins_every_pair_over_measured_links() -> None:
    snapshot = reference_snapshot("geo24", "70b")
    assert snapshot.default_link is None
    assert len(snapshot.links) == 24 * 23
    slowest = min(link.bandwidth_bytes_per_s or 0 for link in snapshot.links.values())
    # Between regions a link carries fewer tokens than one A100 with 12 layers makes.
    assert slowest / reference_model("70b").activation_bytes < 952


def test_published_ranges_fit_the_peers_that_hold_them() -> None:
    for cluster in ("single24", "geo24"):
        for model in MODELS:
            snapshot = reference_snapshot(cluster, model)
            most = {p.peer: len(p.tokens_per_s) for p in snapshot.peers}
            found = published_placements(cluster, model)
            assert {"petals", "swarm"} <= set(found)
            for published in found.values():
                assert set(published.ranges) == set(most)
                for peer, held in published.ranges.items():
                    assert len(held) <= most[peer]
                    assert held.end <= snapshot.model.layers


def test_batch_limits_shrink_with_layers() -> None:
    assert batch_limits("single24", "30b", "A100", 1) == (3, 360)
    assert batch_limits("single24", "30b", "A100", 18) == (3, 35)


@pytest.mark.parametrize(
    ("cluster", "model", "named"), [("single25", "70b", "single25"), ("single24", "7b", "7b")]
)
def test_unknown_names_are_named(cluster: str, model: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        reference_snapshot(cluster, model)
