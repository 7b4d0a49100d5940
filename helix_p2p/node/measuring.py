"""Measures the ways to a few other peers, for the planner.

A new peer measures at once those it hears of, and everyone measures newcomers within seconds; later
rounds take those that were not measured for longest: all others in a small swarm, in a large one
those that it is a witness for (`cluster.belief`), so that several measure each peer and the same
ones go on doing so.

Always: bounded in peers, bytes and time; what could not be measured is left out, never guessed. The
uplink is what the fastest taker took from us, a lower bound that rises as more are measured.
"""

from collections.abc import Collection
from dataclasses import dataclass

from helix_p2p.cluster.announcement import LinkMeasurement
from helix_p2p.cluster.belief import subjects_of
from helix_p2p.net.probe import Measurement, measure_some
from helix_p2p.node.presence import Presence
from helix_p2p.types import PeerId

PEERS_PER_ROUND = 6
PEERS_ANNOUNCED = 16
"""A measured way takes 75 bytes of an announcement, and a plan carries all announcements."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What is known of the ways from here.

    Attributes:
        links: Towards other peers, ascending by id.
        uplink_bytes_per_s: None while nothing was measured.
        downlink_bytes_per_s: Likewise.
    """

    links: tuple[LinkMeasurement, ...] = ()
    uplink_bytes_per_s: float | None = None
    downlink_bytes_per_s: float | None = None


class WayMeter:
    """Measures a few ways in each round and keeps what it learned."""

    def __init__(self, here: Presence) -> None:
        self._here = here
        self._known: dict[PeerId, Measurement] = {}

    def newcomers(self) -> list[PeerId]:
        """Those whom this peer is to measure and has not measured."""
        return [peer for peer in self._subjects() if peer not in self._known]

    def _subjects(self) -> list[PeerId]:
        member = self._here.member
        lending = [p for p, said in member.announcements().items() if said.speed is not None]
        return list(subjects_of(member.peer_id, lending))

    async def round(self, only: Collection[PeerId] | None = None) -> Ways:
        """Measure the next few peers, or of these; what is known of all of them."""
        present = self._subjects()
        order = list(self._known)
        present.sort(key=lambda p: (order.index(p) if p in self._known else -1, p))
        for measured in await measure_some(
            self._here.requests,
            [p for p in present if only is None or p in only][:PEERS_PER_ROUND],
            addresses=self._here.addresses_of,
        ):
            self._known.pop(measured.peer, None)
            self._known[measured.peer] = measured  # the end of the queue
        for peer in [p for p in self._known if p not in present]:
            del self._known[peer]
        return self._ways()

    def _ways(self) -> Ways:
        latest = list(self._known.values())[-PEERS_ANNOUNCED:]
        links = sorted(
            (
                LinkMeasurement(m.peer, m.rtt_s, m.there_bytes_per_s, m.back_bytes_per_s)
                for m in latest
            ),
            key=lambda link: link.peer,
        )
        up = [m.there_bytes_per_s for m in latest if m.there_bytes_per_s is not None]
        down = [m.back_bytes_per_s for m in latest if m.back_bytes_per_s is not None]
        return Ways(tuple(links), max(up, default=None), max(down, default=None))
