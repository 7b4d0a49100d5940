"""Makes the engine hold what the plan says, while it serves.

    plan says [a, b) ─▶ loading: read what is missing, still serving the old range
                     ─▶ self-test ─▶ serving old ∪ new ─▶ when every peer of the plan is there:
                     ─▶ serving [a, b), old layers dropped as their sessions end

Where old and new do not fit together, or do not touch, the old range is given up first.

Always: layers under running sessions are never dropped, except after `drain_s`; a range is
announced only after it gave finite numbers in a self-test; a newer target replaces an older one at
once; a range that cannot be loaded leaves this peer in standby, is said, and tried again.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from helix_p2p.cluster.announcement import PeerState
from helix_p2p.engine.contract import Engine, StepRow
from helix_p2p.errors import HelixError, ModelError, OutOfMemory
from helix_p2p.node.compute import ComputeThread
from helix_p2p.types import LayerRange, SessionId

log = logging.getLogger(__name__)

RETRY_S = 15.0
CUT_OVER_S = 60.0
"""Peers that take longer to load than this are not waited for; routes do without them."""
POLL_S = 0.05
_SELF_TEST = SessionId(b"self-test")
"""No other session can have this name: theirs are 16 bytes."""


@dataclass(frozen=True, slots=True)
class Held:
    """What this peer may be asked for now."""

    state: PeerState
    serving: LayerRange | None
    error: HelixError | None = None


class LayerLoader:
    """Follows a target range.

    Args:
        engine: Owned by `compute`'s thread.
        compute: The engine's thread.
        in_use: Ranges that sessions run on.
        complete: Whether every peer of the plan serves its range, so that routes exist without
            our old one.
        changed: Told each time what is served changes.
        drain_s: Longest wait for sessions on layers that must go.
    """

    def __init__(
        self,
        engine: Engine,
        compute: ComputeThread,
        *,
        in_use: Callable[[], tuple[LayerRange, ...]],
        complete: Callable[[], bool],
        changed: Callable[[Held], None],
        drain_s: float,
    ) -> None:
        self._engine = engine
        self._compute = compute
        self._in_use = in_use
        self._complete = complete
        self._changed = changed
        self._drain_s = drain_s
        self._target: LayerRange | None = None
        self._due_s = 0.0
        self._wanted = asyncio.Event()
        self.held = Held(PeerState.STANDBY, None)

    def want(self, target: LayerRange | None, *, after_s: float = 0.0) -> None:
        """What the plan says.

        Args:
            target: None when it gives this peer nothing.
            after_s: Go on as before for so long; another target may come meanwhile.
        """
        self._due_s = asyncio.get_running_loop().time() + after_s
        if target != self._target:
            self._target = target
            self._wanted.set()

    async def run(self) -> None:
        """Follow the target until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if await self._changes_until_due():
                continue
            target = self._target
            try:
                await self._follow(target)
            except HelixError as error:
                log.warning("layers %s cannot be served: %s", target, error)
                self._say(Held(PeerState.STANDBY, None, error))
                await self._changes_before(asyncio.get_running_loop().time() + RETRY_S)
                self._wanted.set()

    async def _follow(self, target: LayerRange | None) -> None:
        if target is None:
            self._say(Held(PeerState.STANDBY, None))
            return
        if target != self.held.serving:
            try:
                await self._load(target)
            except OutOfMemory:
                await self._make_room(target)
                if self._target == target:
                    await self._load(target)
            if self._target != target:
                return
            both = union(self.held.serving, target)
            if both != target:
                self._say(Held(PeerState.SERVING, both))
                await self._wait_until_complete(target)
                if self._target != target:
                    return
            self._say(Held(PeerState.SERVING, target))
        await self._drop_outside(target)

    async def _load(self, target: LayerRange) -> None:
        if not self._engine.held.issuperset(target):
            self._say(Held(PeerState.LOADING, self.held.serving))
        prepared = await asyncio.to_thread(self._engine.prepare, target)
        await self._compute.run(lambda: self._engine.install(prepared))
        await self._compute.run(lambda: self_test(self._engine, target))

    async def _make_room(self, target: LayerRange) -> None:
        """Stop serving what the target does not keep, wait for its sessions, drop it."""
        self._say(Held(PeerState.LOADING, None))
        await self._wait_until_unused(target)
        if self._target == target:
            await self._compute.run(lambda: self._engine.retain(target))

    async def _drop_outside(self, target: LayerRange) -> None:
        if self._engine.held.issubset(target):
            return
        await self._wait_until_unused(target)
        if self._target == target:
            await self._compute.run(lambda: self._engine.retain(target))
            self._say(self.held)  # the KV room has grown

    async def _wait_until_unused(self, target: LayerRange) -> None:
        """Wait for sessions that run on layers outside `target`, at most `drain_s`."""
        deadline = asyncio.get_running_loop().time() + self._drain_s
        while any(not target.contains(used) for used in self._in_use()):
            if self._target != target or asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(POLL_S)

    async def _wait_until_complete(self, target: LayerRange) -> None:
        """Wait for the other peers of the plan, at most `CUT_OVER_S`."""
        deadline = asyncio.get_running_loop().time() + CUT_OVER_S
        while self._target == target and not self._complete():
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(POLL_S)

    async def _changes_until_due(self) -> bool:
        """Wait until the target is due, which may be put off meanwhile, or for another one."""
        while True:
            due_s = self._due_s
            if await self._changes_before(due_s):
                return True
            if self._due_s <= due_s:
                return False

    async def _changes_before(self, at_s: float) -> bool:
        """Wait until then, or for another target; whether there is one."""
        try:
            async with asyncio.timeout_at(at_s):
                await self._wanted.wait()
        except TimeoutError:
            return False
        return True

    def _say(self, held: Held) -> None:
        self.held = held
        self._changed(held)


def union(old: LayerRange | None, new: LayerRange) -> LayerRange:
    """Both ranges as one where they touch, else the new one."""
    if old is None or old.end < new.start or new.end < old.start:
        return new
    return LayerRange(min(old.start, new.start), max(old.end, new.end))


def self_test(engine: Engine, layers: LayerRange) -> None:
    """One token through a range, before anyone is told that it is served; engine thread.

    Raises:
        ModelError: The result is not finite.
        Busy: Not even one token's KV cache fits.
    """
    engine.open(_SELF_TEST, layers, 1)
    try:
        rows = [StepRow(_SELF_TEST, 0, 1)]
        if layers.start == 0:
            result = engine.step(layers, rows, tokens=[0])
        else:
            ones = torch.ones(1, engine.spec.d_model)
            result = engine.step(layers, rows, hidden=ones)
    finally:
        engine.close(_SELF_TEST)
    if result.hidden is not None and not torch.isfinite(result.hidden).all():
        raise ModelError(
            f"layers {layers} give numbers that are not finite",
            hint="the weights are corrupt, or the dtype is too small for this model",
        )
