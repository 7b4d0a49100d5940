"""Simulated peers move when their swarm is parted anew, as `node.peer` and `helix-peer` do.

Each that belongs elsewhere waits for a moment by chance, drains, leaves and starts again in the
other cell, with the weights on its disk and what that remembers of the other cell's plans.

Always: whoever is down meanwhile starts in the right cell; a peer is in one cell at a time.
"""

from collections.abc import Iterable
from random import Random
from typing import Protocol

from helix_p2p.sim.clock import VirtualTime
from helix_p2p.types import PeerId

DRAIN_S = 60.0
LOOK_S = 0.5
START_S = 5.0
"""From one process's end to the next one's joining."""


class Movable(Protocol):
    """What is asked of a swarm."""

    def astray(self, name: PeerId) -> bool:
        """Whether it belongs into another cell."""

    def drain(self, name: PeerId) -> None:
        """It takes nothing new."""

    def drained(self, name: PeerId) -> bool:
        """Whether nothing runs there."""

    def end(self, name: PeerId) -> None:
        """It says good-bye and is gone; nothing happens to one that is down."""

    def settle(self, name: PeerId) -> None:
        """It is up, where it belongs."""


class Moves:
    """See the module's description.

    Args:
        swarm: Carries out the steps.
        time: Virtual time.
        rng: Draws the moments.
    """

    def __init__(self, swarm: Movable, time: VirtualTime, rng: Random) -> None:
        self._swarm = swarm
        self._time = time
        self._rng = rng

    def begin(self, peers: Iterable[PeerId], within_s: float) -> int:
        """Let all move that belong elsewhere.

        Args:
            peers: All there are.
            within_s: By when each begins.

        Returns:
            How many have to move.
        """
        astray = [name for name in sorted(peers) if self._swarm.astray(name)]
        for name in astray:
            self._time.after(self._rng.uniform(0, within_s), self._drain, name)
        return len(astray)

    def _drain(self, name: PeerId) -> None:
        if self._swarm.astray(name):  # there may have been another word meanwhile
            self._swarm.drain(name)
            self._leave(name, self._time.now_s + DRAIN_S)

    def _leave(self, name: PeerId, deadline_s: float) -> None:
        if self._swarm.drained(name) or self._time.now_s >= deadline_s:
            self._swarm.end(name)
            self._time.after(START_S, self._swarm.settle, name)
        else:
            self._time.after(LOOK_S, self._leave, name, deadline_s)
