"""What a peer finds out about others and says in its announcement: ways and paces.

When to look is decided here, how to measure in `measuring` and `pacing`, and what plans make of it
in `cluster.belief`.

Always: a limit that a person set on the uplink stands, whatever was measured; `changed` is called
after each round that found something.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from helix_p2p.cluster.announcement import PaceMeasurement
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.node.measuring import WayMeter, Ways
from helix_p2p.node.pacing import PaceMeter
from helix_p2p.node.presence import Presence

MEASURE_FIRST_S = 2.0
MEASURE_NEW_S = 20.0
MEASURE_S = 120.0


class Witness:
    """See the module's description.

    Args:
        here: This peer's presence.
        spec: The model.
        uplink_bytes_per_s: A limit that was set; None where there is none.
        changed: Told when there is more to say.

    Attributes:
        ways: Round trips and bandwidth to a few peers.
        paces: How many times longer some need than they say.
    """

    def __init__(
        self,
        here: Presence,
        spec: ModelSpec,
        uplink_bytes_per_s: float | None,
        changed: Callable[[], None],
    ) -> None:
        self.ways = Ways(uplink_bytes_per_s=uplink_bytes_per_s)
        self.paces: tuple[PaceMeasurement, ...] = ()
        self._way_meter = WayMeter(here)
        self._pace_meter = PaceMeter(
            here.member.peer_id, here, here.member.announcements, spec.layers, spec.d_model
        )
        self._limit_bytes_per_s = uplink_bytes_per_s
        self._changed = changed

    async def measure_ways(self) -> None:
        """To a few peers, soon after the start and then now and then; until cancelled."""
        pause_s, next_s = MEASURE_FIRST_S, 0.0
        while True:
            await asyncio.sleep(pause_s)
            newcomers, now_s = self._way_meter.newcomers(), time.monotonic()
            if now_s < next_s and not newcomers:
                continue
            ways = await self._way_meter.round(newcomers if now_s < next_s else None)
            if not ways.links:
                continue
            if now_s >= next_s:
                pause_s, next_s = MEASURE_NEW_S, now_s + MEASURE_S
            limit = self._limit_bytes_per_s
            self.ways = replace(ways, uplink_bytes_per_s=limit or ways.uplink_bytes_per_s)
            self._changed()

    async def time_paces(self) -> None:
        """Until cancelled."""
        await self._pace_meter.run(self._on_paces)

    def _on_paces(self, paces: tuple[PaceMeasurement, ...]) -> None:
        self.paces = paces
        self._changed()
