"""Serving against neighbours that lie, an engine that refuses, links that are full or closed."""

import asyncio
from types import SimpleNamespace

import pytest
import torch

from helix_p2p.engine.contract import StepResult
from helix_p2p.engine.wireformat import to_bytes
from helix_p2p.errors import Busy, NotServing, OutOfMemory, PeerLost
from helix_p2p.node.compute import ComputeThread
from helix_p2p.node.config import ServingLimits
from helix_p2p.node.serving import Serving
from helix_p2p.session.backpressure import FULL_BYTES
from helix_p2p.session.messages import (
    Forward,
    LastStage,
    Open,
    Opened,
    Phase,
    Sampled,
    Sampling,
    StageFailed,
)
from helix_p2p.types import LayerRange, PeerId, SessionId

ME, ENTRY, BEFORE, AFTER = (PeerId(p) for p in ("me", "entry", "before", "after"))
ONE, TWO = SessionId(b"1" * 16), SessionId(b"2" * 16)
D_MODEL, LAYERS = 4, 8


class Engine:
    """Adds one to what comes in; refuses the sessions that it is told to."""

    def __init__(self):
        self.spec = SimpleNamespace(
            layers=LAYERS,
            d_model=D_MODEL,
            vocab_size=50,
            context_tokens=100,
            activation_bytes=4 * D_MODEL,
        )
        self.kv_capacity_token_layers = 10_000
        self.caches = {}
        self.refused = set()

    def open(self, session, layers, kv_tokens, begin=None):
        if session in self.refused:
            self.kv_capacity_token_layers = 0
            raise Busy("the device has no more room")
        self.caches[session] = layers

    def close(self, session):
        self.caches.pop(session, None)

    def step(self, layers, rows, *, tokens=None, hidden=None):
        if any(row.session not in self.caches for row in rows):
            raise NotServing("not open")
        if layers.end == LAYERS:
            return StepResult(None, tuple(7 if row.sample else None for row in rows))
        return StepResult(hidden + 1)


class Links:
    def __init__(self):
        self.sent = []
        self.queued = 0
        self.closed = False

    def send(self, peer, message, payload=b"", *, urgent=False):
        if self.closed:
            raise PeerLost("these links are closed")
        self.sent.append((peer, message, bytes(payload)))

    def queued_bytes(self, _peer):
        return self.queued

    def of(self, kind):
        return [(peer, m) for peer, m, _ in self.sent if isinstance(m, kind)]


class Stage:
    """One peer's serving over a toy engine."""

    def __init__(self):
        self.engine, self.links, self.compute = Engine(), Links(), ComputeThread()
        limits = ServingLimits(prefill_chunk_tokens=4)
        self.serving = Serving(ME, self.engine, self.compute, self.links, limits, lambda: 0.0)
        self.serving.serve(LayerRange(2, LAYERS))

    async def settle(self):
        """Until the engine's thread has done all it was given."""
        for _ in range(3):
            await self.compute.run(lambda: None)

    def open(self, session, *, last=False, **more):
        fields = {
            "session": session,
            "attempt": 1,
            "epoch": 0,
            "layers": LayerRange(2, LAYERS if last else 6),
            "entry": ENTRY,
            "previous": BEFORE,
            "next": None if last else AFTER,
            "kv_tokens": 20,
            "last": LastStage(Sampling()) if last else None,
        }
        self.serving.on_peer_message(ENTRY, Open(**(fields | more)), b"")

    def forward(self, *sessions, position=0, value=1.0, count=1, phase=Phase.DECODE):
        rows = len(sessions)
        hidden = torch.full((rows * count, D_MODEL), value)
        message = Forward(
            phase,
            sessions,
            (1,) * rows,
            (position,) * rows,
            (count,) * rows,
            (True,) * rows,
            dtype="f32",
        )
        self.serving.on_peer_message(BEFORE, message, to_bytes(hidden))


@pytest.fixture
async def stage():
    made = Stage()
    yield made
    await made.compute.close()


async def test_output_without_a_next_stage_is_refused_before_anything_runs(stage):
    stage.open(ONE, layers=LayerRange(2, LAYERS), next=AFTER, last=None)
    ((to, answer),) = stage.links.of(Opened)
    assert (to, answer.failure.code) == (ENTRY, "protocol")
    stage.forward(ONE)
    await stage.settle()
    stage.serving.tick()
    assert stage.engine.caches == {}


async def test_session_without_a_cache_does_not_take_its_batch_along(stage):
    stage.open(ONE, last=True)
    stage.open(TWO, last=True)
    await stage.settle()
    del stage.engine.caches[ONE]
    stage.forward(ONE, TWO)
    await stage.settle()
    ((_, failed),) = stage.links.of(StageFailed)
    assert (failed.session, failed.peer, failed.failure.code) == (ONE, ME, "not_serving")
    ((_, sampled),) = stage.links.of(Sampled)
    assert (sampled.sessions, sampled.tokens) == ((TWO,), (7,))


@pytest.mark.parametrize("value", [1e30, -1e10, float("nan"), float("inf")])
async def test_absurd_activations_are_their_senders_fault(stage, value):
    stage.open(ONE)
    stage.open(TWO)
    stage.forward(ONE, value=value)
    stage.forward(TWO)
    await stage.settle()
    ((_, failed),) = stage.links.of(StageFailed)
    assert (failed.session, failed.peer) == (ONE, BEFORE)
    ((_, passed_on),) = stage.links.of(Forward)
    assert passed_on.sessions == (TWO,)


async def test_engine_without_room_is_told_and_counted(stage):
    stage.engine.refused.add(ONE)
    stage.open(ONE)
    await stage.settle()
    ((_, failed),) = stage.links.of(StageFailed)
    assert (failed.session, failed.failure.code) == (ONE, "busy")
    stage.open(TWO)
    assert stage.links.of(Opened)[-1][1].failure.code == "busy"


async def test_prefill_is_not_computed_faster_than_the_next_peer_takes_it(stage):
    stage.open(ONE)
    stage.links.queued = FULL_BYTES + 1
    for position in range(0, 20, 4):
        stage.forward(ONE, position=position, count=4, phase=Phase.PREFILL)
    await stage.settle()
    sent = len(stage.links.of(Forward))
    assert sent <= 2
    stage.serving.tick()
    await stage.settle()
    assert len(stage.links.of(Forward)) == sent
    stage.links.queued = 0
    stage.serving.tick()
    for _ in range(5):
        await stage.settle()
    assert len(stage.links.of(Forward)) == 5
    assert stage.links.of(StageFailed) == []


async def test_links_that_are_closed_are_no_accident(stage):
    stage.open(ONE)
    stage.forward(ONE)
    stage.links.closed = True
    await stage.settle()
    stage.serving.on_peer_lost(AFTER)
    stage.serving.tick()


async def test_bug_in_what_the_engine_calls_back_comes_out_of_watch(stage):
    def bug(_value):
        raise KeyError("a bug")

    stage.compute.submit(lambda: 1, bug, bug)
    async with asyncio.timeout(5):
        with pytest.raises(KeyError):
            await stage.compute.watch()


async def test_a_step_without_memory_is_busy_and_leaves_less_room():
    stage = Stage()

    def step(*_given, **_more):
        stage.engine.kv_capacity_token_layers = 9_000
        raise OutOfMemory("no memory for a batch of 1 tokens")

    stage.engine.step = step
    stage.open(ONE)
    stage.forward(ONE)
    await stage.settle()
    ((to, failed),) = stage.links.of(StageFailed)
    assert (to, failed.peer, failed.failure.code) == (ENTRY, ME, "busy")
    assert stage.serving.ledger.capacity_token_layers == 9_000
    assert stage.serving.ledger.used_token_layers == 0
    await stage.compute.close()
