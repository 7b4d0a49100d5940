"""A stage that blames its neighbour for what it did itself loses its own ways, not the neighbour's.

One entry peer, two peers in the middle of the model and two at its end; some of them lie.
"""

import random
from collections import Counter

import pytest

from helix_p2p.planning.plan import EdgeFlow, MinCut, Placement
from helix_p2p.routing.blame import ACCUSERS, AGREE_S, Blame
from helix_p2p.routing.route import Hop, Router
from helix_p2p.session.effects import ClientKey, Deliver, Send
from helix_p2p.session.entry import EntryMachine
from helix_p2p.session.limits import ModelLimits
from helix_p2p.session.messages import (
    Failure,
    Generate,
    Open,
    Opened,
    Refused,
    Sampled,
    StageFailed,
)
from helix_p2p.types import LayerRange, PeerId, SessionId

ME, ANN, EVE, YAN, ZOE = (PeerId(p) for p in ("me", "ann", "eve", "yan", "zoe"))
SERVING = {
    ME: LayerRange(0, 4),
    ANN: LayerRange(4, 8),
    EVE: LayerRange(4, 8),
    YAN: LayerRange(8, 12),
    ZOE: LayerRange(8, 12),
}
GONE = Failure("peer_lost", "the next stage is gone")


class Swarm:
    """Runs one-token generations and counts over whom they went."""

    def __init__(self, lies: dict[PeerId, str]) -> None:
        router = Router(12)
        flows = [EdgeFlow(None, ME, 4)]
        for middle in (ANN, EVE):
            flows += [EdgeFlow(ME, middle, 2)]
            flows += [EdgeFlow(middle, last, 1) for last in (YAN, ZOE)]
        router.follow(Placement((), tuple(flows), 4, 4, MinCut(), "test", 0.0))
        self.entry = EntryMachine(ME, ModelLimits(12, 100, 50), router, random.Random(1))
        self.entry.see(SERVING, {}, 1, 0.0)
        self.lies = lies
        self.now_s = 0.0
        self.used: Counter[PeerId] = Counter()
        self.refused = 0
        self.asked = 0

    def generate(self) -> None:
        self.asked += 1
        wanted = Generate(SessionId(self.asked.to_bytes(16, "big")), (1, 2), 1)
        effects = self.entry.on_generate(ClientKey("c"), PeerId("client"), wanted, self.now_s)
        done = False
        while not done:
            opened: dict[PeerId, Open] = {
                e.to: e.message
                for e in effects
                if isinstance(e, Send) and isinstance(e.message, Open)
            }
            told = [e.message for e in effects if isinstance(e, Deliver)]
            if any(isinstance(message, Refused) for message in told):
                self.refused += 1
                return
            if not opened:
                self.now_s += 0.1
                effects = self.entry.tick(self.now_s)
                continue
            done, effects = self._run(opened)

    def _run(self, opened: dict[PeerId, Open]) -> tuple[bool, list]:  # type: ignore[type-arg]
        effects: list = []  # type: ignore[type-arg]
        one = next(iter(opened.values()))
        for peer in opened:
            answer = Opened(one.session, one.attempt)
            effects = self.entry.on_opened(peer, answer, self.now_s)
        liar = next((peer for peer in opened if peer in self.lies), None)
        if liar is not None:
            open_ = opened[liar]
            blamed = open_.next if self.lies[liar] == "next" else open_.previous
            assert blamed is not None
            failed = StageFailed(one.session, one.attempt, blamed, GONE)
            return False, self.entry.on_stage_failed(liar, failed, self.now_s)
        self.used.update(list(opened))
        last = next(peer for peer, open_ in opened.items() if open_.next is None)
        sampled = Sampled((one.session,), (one.attempt,), (2,), (7,))
        effects = self.entry.on_sampled(last, sampled, self.now_s)
        assert any(isinstance(e, Deliver) for e in effects)
        return True, effects


def test_middle_stage_that_blames_the_next_one_takes_no_traffic_from_it() -> None:
    swarm = Swarm({EVE: "next"})
    for _ in range(60):
        swarm.generate()
        swarm.now_s += 0.2
    assert swarm.refused == 0
    assert swarm.used[EVE] == 0
    assert min(swarm.used[YAN], swarm.used[ZOE]) >= 20, "those it blames keep their share"


def test_last_stage_that_blames_the_one_before_it_takes_no_traffic_from_it() -> None:
    swarm = Swarm({ZOE: "previous"})
    for _ in range(60):
        swarm.generate()
        swarm.now_s += 0.2
    assert swarm.refused == 0
    assert swarm.used[ZOE] == 0
    assert min(swarm.used[ANN], swarm.used[EVE]) >= 20


def test_broken_way_between_two_honest_peers_costs_neither_its_other_ways() -> None:
    blame, now_s = Blame(), 0.0
    assert not blame.accuse(EVE, YAN, (EVE, YAN), now_s)
    router = Router(12)

    def lasts(usable_middle: PeerId) -> set[PeerId]:
        usable = {p: held for p, held in SERVING.items() if p not in {ANN, EVE} - {usable_middle}}
        routes = [blame.around(lambda s: router.choose(ME, s), usable, now_s) for _ in range(8)]
        return {route[-1].peer for route in routes if route}

    assert lasts(EVE) == {ZOE}
    assert lasts(ANN) == {YAN, ZOE}


def test_two_neighbours_that_agree_mask_a_peer_and_one_that_repeats_itself_does_not() -> None:
    blame = Blame()
    assert not any(blame.accuse(EVE, YAN, (EVE, YAN), float(s)) for s in range(20))
    assert ACCUSERS == 2
    assert blame.accuse(ANN, YAN, (ANN, YAN), 20.0)
    later_s = 21.0 + AGREE_S
    assert not blame.accuse(EVE, YAN, (EVE, YAN), later_s), "what was said long ago is over"


def test_way_is_tried_again_after_a_while_and_forgiven_when_it_works() -> None:
    blame, router = Blame(), Router(12)
    only = {ME: SERVING[ME], EVE: SERVING[EVE], YAN: SERVING[YAN]}
    route = tuple(Hop(p, only[p]) for p in (ME, EVE, YAN))

    def found(now_s: float) -> bool:
        return blame.around(lambda s: router.choose(ME, s), only, now_s) is not None

    blame.accuse(EVE, YAN, (EVE, YAN), 0.0)
    assert (found(0.1), found(1.0)) == (False, True)
    blame.accuse(EVE, YAN, (EVE, YAN), 1.0)
    assert not found(1.6), "twice as long"
    blame.worked(route)
    assert found(1.6)


def test_detours_are_finite_where_every_way_is_cut() -> None:
    blame, router, asked = Blame(), Router(12), 0
    many = {ME: LayerRange(0, 4)}
    many |= {PeerId(f"m{n}"): LayerRange(4, 8) for n in range(30)}
    many |= {PeerId(f"z{n}"): LayerRange(8, 12) for n in range(30)}
    for one in range(30):
        for other in range(30):
            way = (PeerId(f"m{one}"), PeerId(f"z{other}"))
            blame.accuse(*way, way, 0.0)

    def choose(serving):  # type: ignore[no-untyped-def]
        nonlocal asked
        asked += 1
        return router.choose(ME, serving)

    assert blame.around(choose, many, 0.1) is None
    assert asked <= 16


@pytest.mark.parametrize("accused", [ME, PeerId("stranger")])
def test_accusation_of_anyone_but_a_neighbour_falls_back_on_the_accuser(accused: PeerId) -> None:
    swarm = Swarm({})
    wanted = Generate(SessionId(b"1" * 16), (1, 2), 1)
    effects = swarm.entry.on_generate(ClientKey("c"), PeerId("client"), wanted, 0.0)
    opened = {e.to: e.message for e in effects if isinstance(e.message, Open)}
    liar = next(peer for peer in opened if peer in (ANN, EVE))
    open_ = opened[liar]
    failed = StageFailed(open_.session, open_.attempt, accused, GONE)
    effects = swarm.entry.on_stage_failed(liar, failed, 0.0)
    again = {e.to for e in effects if isinstance(e, Send) and isinstance(e.message, Open)}
    assert again
    assert liar not in again
