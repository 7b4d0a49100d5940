"""Whatever an admitted peer sends, a stage keeps its books and an honest session its way."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from helix_p2p.errors import PoisonedActivation, ProtocolError
from helix_p2p.planning.plan import EdgeFlow, MinCut, Placement
from helix_p2p.routing.admission import KvLedger
from helix_p2p.routing.route import Router
from helix_p2p.session.effects import (
    ClientKey,
    CloseCache,
    Deliver,
    OpenCache,
    RunStep,
    Send,
)
from helix_p2p.session.entry import EntryMachine
from helix_p2p.session.limits import ModelLimits
from helix_p2p.session.messages import (
    Close,
    Failure,
    Forward,
    Generate,
    LastStage,
    Open,
    Opened,
    Phase,
    Refused,
    Sampled,
    Sampling,
    StageFailed,
    check_forward,
    check_sampled,
)
from helix_p2p.session.stage import StageLimits, StageMachine
from helix_p2p.types import LayerRange, PeerId, SessionId

ME, ENTRY, BEFORE, AFTER, EVIL, MALLORY = (
    PeerId(p) for p in ("me", "entry", "before", "after", "evil", "mallory")
)
HONEST = SessionId(b"h" * 16)
MODEL = ModelLimits(layers=8, context_tokens=200, vocab_size=50)

hostile = st.sampled_from([EVIL, MALLORY])
anyone = st.sampled_from([ME, ENTRY, BEFORE, AFTER, EVIL, MALLORY])
names = st.sampled_from(
    [HONEST, *(SessionId(bytes([n]) * 16) for n in range(4)), SessionId(b""), SessionId(b"x" * 99)]
)
small = st.integers(-2, 12)
numbers = small | st.sampled_from([2**31, 2**63 - 1, 2**64 - 1, -(2**63)])
floats = st.sampled_from([0.0, 1.0, 0.5, -1.0, float("nan"), float("inf"), 1e308])
ranges = st.sampled_from([(0, 4), (2, 6), (2, 8), (3, 8), (2, 2**62), (7, 8)]).map(
    lambda ends: LayerRange(*ends)
)
lasts = st.none() | st.builds(
    LastStage,
    st.builds(Sampling, floats, numbers, floats, floats, numbers),
    st.lists(numbers, max_size=3).map(tuple),
)
links = st.sampled_from([b"1" * 16, b"2" * 16, b"3" * 16, b"short"])
chains = st.lists(links, max_size=4).map(tuple)
opens = st.builds(
    Open,
    names,
    numbers,
    numbers,
    ranges,
    anyone,
    anyone,
    st.none() | anyone,
    numbers | st.integers(100, 200),
    lasts,
    chains,
)


@st.composite
def frames(draw):
    rows = draw(st.integers(0, 4))

    def column(of):
        return draw(st.lists(of, min_size=rows, max_size=rows).map(tuple))

    tokens = draw(st.just(()) | st.lists(small, max_size=6).map(tuple))
    phase = draw(st.sampled_from(Phase))
    return Forward(
        phase,
        column(names),
        column(small),
        column(numbers),
        column(st.just(1) | small),
        column(st.booleans()),
        tokens,
    )


closes = st.builds(Close, names, numbers, chains)
acts = st.lists(
    st.one_of(
        st.tuples(st.just("open"), hostile, opens),
        st.tuples(st.just("forward"), hostile, frames()),
        st.tuples(st.just("close"), hostile, closes),
        st.tuples(st.just("poison"), hostile, frames()),
        st.tuples(st.just("lost"), hostile, st.none()),
        st.tuples(st.just("done"), hostile, st.none()),
        st.tuples(st.just("failed"), hostile, st.none()),
    ),
    max_size=40,
)


class Watched:
    """A stage whose effects are checked as they come."""

    def __init__(self):
        self.ledger = KvLedger(10_000)
        self.stage = StageMachine(ME, MODEL, self.ledger, StageLimits(decode_batch=4))
        self.stage.serve(LayerRange(2, 8))
        self.running = None
        self.caches = {}

    def check(self, effects):
        for effect in effects:
            if isinstance(effect, OpenCache):
                if effect.begin is not None:
                    layers, written = self.caches[effect.begin.source]
                    assert layers == effect.layers
                    assert 64 <= effect.begin.positions <= written
                    self.caches[effect.session] = (layers, effect.begin.positions)
                else:
                    self.caches[effect.session] = (effect.layers, 0)
            elif isinstance(effect, CloseCache):
                self.caches.pop(effect.session, None)
            elif isinstance(effect, RunStep):
                assert self.running is None
                self.running = effect
                rows = [row.session for row in effect.rows]
                assert len(set(rows)) == len(rows) > 0
                assert {self.caches[row][0] for row in rows} == {effect.layers}
                for row in effect.rows:
                    assert row.position <= self.caches[row.session][1]
                    self.caches[row.session] = (effect.layers, row.position + row.count)
                assert not effect.takes_tokens
        assert len(self.caches) == self.stage.sessions + self.stage.kept
        assert len(self.ledger.reservations) == self.stage.sessions
        assert 0 <= self.ledger.used_token_layers <= 10_000
        assert self.stage.waiting_positions >= self.stage.waiting_rows >= 0

    def act(self, what, sender, message):
        match what:
            case "open":
                self.check(self.stage.on_open(sender, message, 0.0))
            case "close":
                self.check(self.stage.on_close(sender, message))
            case "lost":
                self.check(self.stage.on_peer_lost(sender))
            case "forward" | "poison":
                try:
                    check_forward(message)
                except ProtocolError:
                    return
                if what == "poison":
                    self.check(self.stage.on_poisoned(sender, message, PoisonedActivation("no")))
                else:
                    payloads = list(message.sessions)
                    self.check(self.stage.on_forward(sender, message, payloads, 0.0))
            case "done" | "failed":
                self.finish(fails=what == "failed" and self._without_honest())

    def _without_honest(self):
        return self.running and all(row.session != HONEST for row in self.running.rows)

    def finish(self, *, fails=False):
        if self.running is not None:
            step, self.running = self.running, None
            if fails:
                self.check(self.stage.on_step_failed(PoisonedActivation("no")))
            else:
                self.check(self.stage.on_step_done([None] * len(step.rows)))


@settings(max_examples=300, deadline=None)
@given(acts)
def test_stage_keeps_its_books_and_honest_sessions_whatever_peers_send(actions):
    watched = Watched()
    honest = Open(HONEST, 1, 1, LayerRange(2, 6), ENTRY, BEFORE, AFTER, 40)
    watched.act("open", ENTRY, honest)
    position = 0
    for what, sender, message in actions:
        watched.act(what, sender, message)
        if position < 30:
            row = Forward(Phase.DECODE, (HONEST,), (1,), (position,), (1,), (True,))
            watched.act("forward", BEFORE, row)
            position += 1
    while watched.running is not None:
        watched.finish()
    assert HONEST in watched.ledger.reservations
    assert watched.stage.waiting_rows == watched.stage.waiting_positions == 0
    for peer in (EVIL, MALLORY, ENTRY):
        watched.act("lost", peer, None)
    assert watched.ledger.used_token_layers == watched.stage.sessions == 0


failures = st.none() | st.builds(
    Failure,
    st.sampled_from(["busy", "protocol", "invalid_request", "cancelled", "input", "?", ""]),
    st.just("x" * 2_000),
    st.none() | floats,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_entry_peer_gives_tokens_or_one_refusal_whatever_stages_answer(data):
    router = Router(8)
    flows = tuple(EdgeFlow(ME, peer, 1) for peer in (EVIL, MALLORY))
    router.follow(Placement((), flows, 1, 1, MinCut(), "test", 0.0))
    entry = EntryMachine(ME, MODEL, router, Random(1))
    serving = {ME: LayerRange(0, 2), EVIL: LayerRange(2, 8), MALLORY: LayerRange(2, 8)}
    entry.see(serving, {}, 1, 0.0)
    wanted = Generate(SessionId(b"c" * 16), (1, 2), 6)
    said, pipelines, now_s = [], [], 0.0

    def take(effects):
        for effect in effects:
            if isinstance(effect, Deliver):
                said.append(effect.message)
            elif isinstance(effect, Send) and isinstance(effect.message, Open):
                pipelines.append(effect.message)

    take(entry.on_generate(ClientKey("c"), PeerId("client"), wanted, now_s))
    for harm in range(data.draw(st.integers(0, 60))):
        about = data.draw(st.just(pipelines[-1]) | st.sampled_from(pipelines))
        name, attempt = about.session, about.attempt
        sender = data.draw(anyone.filter(lambda peer: peer != ME))
        events = ["opened", "sampled", "failed", "failed", "failed", "lost", "tick"]
        match data.draw(st.sampled_from(events)):
            case "opened":
                take(entry.on_opened(sender, Opened(name, attempt, data.draw(failures)), now_s))
            case "sampled":
                message = Sampled((name,), (attempt,), (data.draw(numbers),), (data.draw(numbers),))
                check_sampled(message)
                take(entry.on_sampled(sender, message, now_s))
            case "failed":
                failure = data.draw(failures.filter(lambda f: f is not None))
                message = StageFailed(name, attempt, data.draw(anyone), failure)
                take(entry.on_stage_failed(sender, message, now_s))
            case "lost":
                take(entry.on_peer_lost(data.draw(hostile), now_s))
            case "tick":
                now_s += data.draw(st.sampled_from([0.1, 1.0, 6.0, 40.0]))
                take(entry.tick(now_s))
        ended_early = any(isinstance(message, Refused) for message in said)
        assert not ended_early or harm >= 8 or now_s >= 20.0, "repairs were not used up"
    for _ in range(100):
        now_s += 5.0
        take(entry.tick(now_s))
    assert entry.running == entry.waiting == 0, "nothing waits for ever"
    tokens = [token for message in said for token in getattr(message, "tokens", ())]
    assert len(tokens) <= 6
    assert all(0 <= token < MODEL.vocab_size for token in tokens)
    refused = [message for message in said if hasattr(message, "failure")]
    assert len(refused) == (0 if len(tokens) == 6 else 1)
    assert not any(m.failure.code in ("invalid_request", "cancelled") for m in refused)
    assert not refused or len(refused[0].failure.message) <= 1_100
