"""A witness times some layers of another peer, and takes off what the way explains."""

from dataclasses import replace
from itertools import pairwise

import pytest

from helix_p2p.cluster.announcement import Announcement, PaceMeasurement, PeerState
from helix_p2p.errors import Busy
from helix_p2p.membership.messages import Probe, ProbeReply
from helix_p2p.node.pacing import PROMPT_ROWS, STEPS, PaceMeter
from helix_p2p.session.recheck_messages import Rerun, RerunReply
from helix_p2p.types import LayerRange, PeerId
from tests.unit.planning.swarms import make_announcements, make_model

MODEL = make_model()
SAID = {
    identity.peer_id: replace(said, state=PeerState.SERVING, serving=LayerRange(4, 14))
    for identity, said in make_announcements(MODEL, [10**9] * 4)
}
ME, OTHER, *_ = sorted(SAID)


class Others:
    """Peers that take this long; their clock is ours."""

    def __init__(self, way_s: float, slower: float) -> None:
        self.way_s, self.slower = way_s, slower
        self.now_s = 0.0
        self.busy: set[PeerId] = set()
        self.ran: list[LayerRange] = []
        self.timed: list[PeerId] = []

    async def ask(self, peer, message, payload=b"", *, timeout_s=10.0):
        self.now_s += self.way_s
        if isinstance(message, Probe):
            return ProbeReply(len(payload)), bytearray(message.size_bytes)
        assert isinstance(message, Rerun)
        if peer in self.busy:
            raise Busy("enough is run already", retry_after_s=1.0)
        self.ran.append(message.layers)
        self.timed.append(peer)
        speed = SAID[peer].speed
        assert speed is not None
        step_s = speed.prefill_s(PROMPT_ROWS) + STEPS * speed.decode_s(1)
        self.now_s += self.slower * step_s * len(message.layers)
        return RerunReply((), "bf16", "f32"), bytearray(payload)

    def meter(self, said: dict[PeerId, Announcement] | None = None) -> PaceMeter:
        words = SAID if said is None else said
        return PaceMeter(ME, self, lambda: words, 24, 8, lambda: self.now_s)


async def found(others: Others, rounds: int = 1) -> tuple[PaceMeasurement, ...]:
    meter = others.meter()
    for _ in range(rounds):
        last = await meter.round()
    return last


async def test_peer_as_fast_as_it_says_is_believed_over_a_slow_way() -> None:
    paces = await found(Others(way_s=0.5, slower=1.0))
    assert {p.peer for p in paces} == SAID.keys() - {ME}
    assert {p.slower for p in paces} == {1.0}


async def test_ten_times_as_slow_is_told_and_small_differences_are_not() -> None:
    assert {p.slower for p in await found(Others(0.01, 10.0))} == {10.0}
    assert {p.slower for p in await found(Others(0.01, 3.0))} == {1.0}


async def test_better_of_the_last_two_counts() -> None:
    others = Others(0.01, 10.0)
    meter = others.meter()
    assert {p.slower for p in await meter.round()} == {10.0}
    others.slower = 1.0
    assert {p.slower for p in await meter.round()} == {1.0}
    others.slower = 10.0
    assert {p.slower for p in await meter.round()} == {1.0}
    assert {p.slower for p in await meter.round()} == {10.0}


async def test_newcomer_is_timed_alone_among_those_who_are_known() -> None:
    others = Others(0.01, 1.0)
    said = {peer: word for peer, word in SAID.items() if peer != OTHER}
    meter = others.meter(said)
    for _ in range(3):
        await meter.round()
    others.timed.clear()
    said[OTHER] = SAID[OTHER]
    assert OTHER in {p.peer for p in await meter.round()}
    await meter.round()
    assert others.timed == [OTHER, OTHER]
    await meter.round()
    assert set(others.timed[2:]) == SAID.keys() - {ME}, "who is sure of all looks at all again"


async def test_who_says_more_later_is_timed_anew() -> None:
    others, said = Others(0.01, 1.0), dict(SAID)
    meter = others.meter(said)
    for _ in range(2):
        await meter.round()
    speed = SAID[OTHER].speed
    assert speed is not None
    said[OTHER] = replace(SAID[OTHER], speed=speed.slowed(0.1))
    paces = {p.peer: p.slower for p in await meter.round()}
    assert paces.pop(OTHER) == 10.0
    assert set(paces.values()) == {1.0}


async def test_who_refuses_is_asked_again_after_longer_and_longer() -> None:
    others = Others(0.01, 1.0)
    others.busy = {OTHER}
    meter = others.meter({ME: SAID[ME], OTHER: SAID[OTHER]})
    asked_s = []
    for second in range(1200):
        others.now_s = max(others.now_s, float(second))
        if meter.due():
            await meter.round()
            asked_s.append(second)
    pauses_s = [b - a for a, b in pairwise(asked_s)]
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[0] < 30
    assert 250 < pauses_s[-1] <= 310


async def test_who_refuses_for_days_is_still_asked() -> None:
    others = Others(0.01, 1.0)
    others.busy = {OTHER}
    meter = others.meter({ME: SAID[ME], OTHER: SAID[OTHER]})
    for _ in range(1100):
        assert await meter.round() == ()
    others.busy.clear()
    assert [p.peer for p in await meter.round()] == [OTHER]


async def test_who_cannot_run_now_is_left_out() -> None:
    others = Others(0.01, 1.0)
    others.busy = {OTHER}
    assert OTHER not in {p.peer for p in await found(others)}


@pytest.mark.parametrize(
    ("serving", "state", "timed"),
    [
        (LayerRange(0, 24), PeerState.SERVING, LayerRange(1, 23)),
        (LayerRange(0, 1), PeerState.SERVING, None),
        (LayerRange(23, 24), PeerState.SERVING, None),
        (LayerRange(4, 14), PeerState.LOADING, None),
        (None, PeerState.STANDBY, None),
    ],
)
async def test_only_inner_layers_of_who_serves_are_timed(
    serving: LayerRange | None, state: PeerState, timed: LayerRange | None
) -> None:
    others = Others(0.01, 1.0)
    said = {ME: SAID[ME], OTHER: replace(SAID[OTHER], serving=serving, state=state)}
    await others.meter(said).round()
    assert others.ran == ([timed] if timed else [])
