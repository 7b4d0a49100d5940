import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from helix_p2p.planning.plan import EdgeFlow, MinCut, Placement
from helix_p2p.routing.route import Hop, Router
from helix_p2p.types import LayerRange, PeerId

LAYERS = 12
serving_views = st.dictionaries(
    st.sampled_from([PeerId(p) for p in "abcdefgh"]),
    st.tuples(st.integers(0, LAYERS - 1), st.integers(1, LAYERS)).map(
        lambda pair: LayerRange(min(pair[0], pair[1] - 1), max(pair[0] + 1, pair[1]))
    ),
    max_size=8,
)


def placement(*flows):
    return Placement((), tuple(EdgeFlow(*flow) for flow in flows), 1, 1, MinCut(), "test", 0.0)


def exists_route(entry, serving):
    """Exhaustive search, the oracle."""
    held = serving.get(entry)
    if held is None or held.start != 0:
        return False
    frontier, seen = {held.end}, set()
    while frontier:
        end = frontier.pop()
        if end == LAYERS:
            return True
        seen.add(end)
        frontier |= {h.end for h in serving.values() if h.start <= end < h.end} - seen
    return False


@given(serving_views, st.integers(0, 2**32))
def test_route_covers_every_layer_once_exactly_when_one_exists(serving, seed):
    rng = random.Random(seed)
    flows = [(None, p, 5) for p in serving] + [
        (a, b, rng.randint(1, 9)) for a in serving for b in serving if rng.random() < 0.4
    ]
    router = Router(LAYERS)
    router.follow(placement(*flows))
    for entry in serving:
        route = router.choose(entry, serving)
        assert (route is not None) == exists_route(entry, serving)
        if route is None:
            continue
        assert route[0].peer == entry
        assert [layer for hop in route for layer in hop.layers] == list(range(LAYERS))
        assert all(serving[hop.peer].contains(hop.layers) for hop in route)
        assert len({hop.peer for hop in route}) == len(route)


def test_shares_follow_planned_flows():
    a, b, c = (PeerId(p) for p in "abc")
    serving = {a: LayerRange(0, 6), b: LayerRange(6, 12), c: LayerRange(4, 12)}
    router = Router(LAYERS)
    router.follow(placement((None, a, 40), (a, b, 30), (a, c, 10), (b, None, 30), (c, None, 10)))
    routes = [router.choose(a, serving) for _ in range(40)]
    counts = Counter(route[1].peer for route in routes if route)
    assert abs(counts[b] - 30) <= 1
    assert routes[0] is not None
    assert {hop.layers for route in routes if route for hop in route[1:]} == {LayerRange(6, 12)}


def test_dead_end_is_never_entered():
    a, b, c, d = (PeerId(p) for p in "abcd")
    serving = {a: LayerRange(0, 4), b: LayerRange(4, 8), c: LayerRange(4, 12)}
    router = Router(LAYERS)
    router.follow(placement((None, a, 9), (a, b, 8), (b, d, 8), (a, c, 1)))
    for _ in range(5):
        assert router.choose(a, serving) == (
            Hop(a, LayerRange(0, 4)),
            Hop(c, LayerRange(4, 12)),
        )


def test_unplanned_peer_is_used_when_the_planned_one_is_gone():
    a, b = PeerId("a"), PeerId("b")
    router = Router(LAYERS)
    router.follow(placement((None, a, 9), (a, PeerId("gone"), 9)))
    serving = {a: LayerRange(0, 6), b: LayerRange(6, 12)}
    assert router.choose(a, serving) is not None
    assert router.choose_entry(serving) == a


def test_entry_peer_follows_the_client_side_flows():
    a, b = PeerId("a"), PeerId("b")
    serving = {a: LayerRange(0, 12), b: LayerRange(0, 12)}
    router = Router(LAYERS)
    router.follow(placement((None, a, 75), (None, b, 25), (a, None, 75), (b, None, 25)))
    counts = Counter(router.choose_entry(serving) for _ in range(100))
    assert abs(counts[a] - 75) <= 1
