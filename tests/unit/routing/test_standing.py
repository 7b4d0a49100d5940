from helix_p2p.planning.plan import EdgeFlow, MinCut, Placement
from helix_p2p.routing.route import Router
from helix_p2p.routing.slowness import SPAN_TOKENS, TRY_S
from helix_p2p.routing.standing import Standing
from helix_p2p.types import LayerRange, PeerId, SessionId

ME, ONE, TWO = PeerId("me"), PeerId("one"), PeerId("two")
SERVING = {ME: LayerRange(0, 4), ONE: LayerRange(4, 8), TWO: LayerRange(4, 8)}
NOBODY: frozenset[PeerId] = frozenset()


def standing(serving=SERVING, hosts=None):
    flows = (
        EdgeFlow(None, ME, 2),
        *(EdgeFlow(ME, last, 1) for last in (ONE, TWO)),
        *(EdgeFlow(last, None, 1) for last in (ONE, TWO)),
    )
    router = Router(8)
    router.follow(Placement((), flows, 2, 2, MinCut(), "test", 0.0))
    known = Standing(ME, router)
    known.see(serving, hosts or {}, 1)
    return known


def lasts(known, now_s=0.0, avoid=NOBODY):
    """Last stages of four routes in a row; None where there is no route."""
    routes = [known.route(avoid, 10, now_s) for _ in range(4)]
    return {route[-1].peer if route else None for route in routes}


def test_a_peer_that_failed_is_on_no_route_until_its_mask_ends():
    known = standing()
    assert lasts(known) == {ONE, TWO}
    known.failed(ONE, 0.0)
    assert lasts(known) == {TWO}
    known.failed(TWO, 0.0)
    assert lasts(known) == {None}
    assert lasts(known, 1.0) == {ONE, TWO}


def test_a_full_peer_rests_for_a_moment_and_answers_of_one_moment_count_once():
    known = standing()
    for _ in range(5):
        known.full(ONE, 0.0)
    assert (known.any_full(0.0), lasts(known)) == (True, {TWO})
    assert (known.any_full(0.2), lasts(known, 0.2)) == (False, {ONE, TWO})


def test_whom_the_client_avoids_is_used_only_where_nobody_else_serves():
    known = standing()
    assert lasts(known, avoid=frozenset({ONE})) == {TWO}
    assert lasts(known, avoid=frozenset({ONE, TWO})) == {ONE, TWO}
    assert lasts(known, avoid=frozenset({ME})) == {ONE, TWO}
    known.failed(TWO, 0.0)
    assert lasts(known, avoid=frozenset({ONE})) == {ONE}


def test_an_accusation_counts_between_neighbours_only_and_cuts_the_way_between_them():
    known = standing({ME: LayerRange(0, 4), ONE: LayerRange(4, 6), TWO: LayerRange(6, 8)})
    peers = (ME, ONE, TWO)
    assert not known.accuse(peers, TWO, ME, 0.0)
    assert not known.accuse(peers, ONE, ME, 0.0)
    assert not known.accuse(peers, ONE, ONE, 0.0)
    assert lasts(known) == {TWO}
    assert known.accuse(peers, ONE, TWO, 0.0)
    assert lasts(known) == {None}


def test_a_generation_that_ends_well_clears_its_peers():
    known = standing()
    route = known.route(NOBODY, 10, 0.0)
    assert route is not None
    known.failed(route[-1].peer, 0.0)
    known.accuse((ME, ONE), ME, ONE, 0.0)
    known.worked(route)
    assert route[-1].peer in lasts(known)


def test_stages_on_one_host_count_once_and_a_move_is_told():
    known = standing()
    route = known.route(NOBODY, 10, 0.0)
    assert route is not None
    assert known.width(route) == 2
    same = dict.fromkeys(SERVING, "host")
    assert known.see(SERVING, same, 1)
    assert not known.see(SERVING, same, 2)
    assert known.width(route) == 1


def test_routes_begin_here_only_while_this_peer_serves_the_first_layers():
    assert standing().begins_here
    assert not standing({**SERVING, ME: LayerRange(1, 4)}).begins_here
    assert not standing({ONE: LayerRange(0, 8)}).begins_here


def test_a_lone_pipeline_that_has_become_slow_is_gone_around_once_a_while():
    flows = (EdgeFlow(None, ME, 1), EdgeFlow(ME, ONE, 1), EdgeFlow(ONE, None, 1))
    router = Router(8)
    router.follow(Placement((), flows, 1, 1, MinCut(), "test", 0.0))
    known = Standing(ME, router)
    known.see(SERVING, {}, 1)
    now_s = 0.0
    for number, step_s in enumerate([0.01] * 3 + [0.1] * 3):
        session = SessionId(bytes([number]) * 16)
        for _ in range(SPAN_TOKENS + 1):
            known.token(session, (ME, ONE), now_s)
            now_s += step_s
        known.over(session)
    taken = [known.route(NOBODY, 10, now_s)[-1].peer for _ in range(4)]
    assert taken == [TWO, ONE, ONE, ONE]
    assert known.route(NOBODY, 10, now_s + TRY_S)[-1].peer == TWO
