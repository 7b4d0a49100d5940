"""The loader: what sessions run on stays, whatever plans come meanwhile."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
import torch

from helix_p2p.engine.contract import StepResult
from helix_p2p.errors import OutOfMemory
from helix_p2p.node.background import background
from helix_p2p.node.compute import ComputeThread
from helix_p2p.node.loading import LayerLoader
from helix_p2p.types import LayerRange

OLD, FAR, NEAR = LayerRange(0, 4), LayerRange(4, 8), LayerRange(0, 3)


class Engine:
    """Has room for four layers."""

    def __init__(self):
        self.spec = SimpleNamespace(d_model=2)
        self.held = frozenset()
        self.sessions = set()
        self.retained = []
        self.has_retained = threading.Event()

    def prepare(self, layers):
        if len(self.held | set(layers)) > 4:
            raise OutOfMemory("four layers fit")
        return SimpleNamespace(layers=layers)

    def install(self, prepared):
        self.held |= set(prepared.layers)

    def retain(self, layers):
        self.held &= set(layers)
        self.retained.append(layers)
        self.has_retained.set()

    def open(self, session, _layers, _kv_tokens):
        self.sessions.add(session)

    def close(self, session):
        self.sessions.discard(session)

    def step(self, _layers, rows, *, tokens=None, hidden=None):
        return StepResult(torch.zeros(len(rows), 2))


class Following:
    def __init__(self):
        self.engine, self.compute = Engine(), ComputeThread()
        self.in_use = ()
        self.said = []
        self.changed = asyncio.Event()
        self.loader = LayerLoader(
            self.engine,
            self.compute,
            in_use=lambda: self.in_use,
            complete=lambda: True,
            changed=self._say,
            drain_s=30.0,
        )

    def _say(self, held):
        self.said.append(held)
        self.changed.set()

    async def until_serving(self, layers):
        async with asyncio.timeout(5):
            while not self.said or self.said[-1].serving != layers:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def following():
    made = Following()
    async with background() as tasks:
        tasks.start(made.loader.run())
        yield made
    await made.compute.close()


async def test_plan_that_changes_its_mind_leaves_the_layers_of_running_sessions(following):
    following.loader.want(OLD)
    await following.until_serving(OLD)
    following.in_use = (OLD,)
    following.loader.want(FAR)  # does not fit beside the old one, whose sessions must end first
    await following.until_serving(None)
    following.loader.want(OLD)
    await following.until_serving(OLD)
    assert following.engine.retained == []


async def test_layers_go_once_their_sessions_have_ended(following):
    following.loader.want(OLD)
    await following.until_serving(OLD)
    following.in_use = (OLD,)
    following.loader.want(NEAR)
    await following.until_serving(NEAR)
    assert following.engine.held == set(OLD)
    following.in_use = ()
    assert await asyncio.to_thread(following.engine.has_retained.wait, 5)
    assert following.engine.held == set(NEAR)
    assert following.engine.sessions == set()


async def test_plan_of_a_planner_that_did_not_know_this_peer_is_followed_late_or_never(following):
    following.loader.want(OLD)
    await following.until_serving(OLD)
    following.loader.want(None, after_s=30.0)
    following.loader.want(OLD)  # the next plan knows it again
    await asyncio.sleep(0.05)
    assert following.said[-1].serving == OLD
    following.loader.want(None, after_s=0.05)
    await asyncio.sleep(0.02)
    following.loader.want(None, after_s=0.3)  # one more such plan puts it off
    await asyncio.sleep(0.15)
    assert following.said[-1].serving == OLD
    await following.until_serving(None)
