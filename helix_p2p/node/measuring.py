"""Measures the ways to a few other peers, for the planner.

A new peer measures at once those it hears of, and everyone measures newcomers within seconds; later
rounds take those whose turn was longest ago: all others in a small swarm, in a large one those that
it is a witness for (`cluster.belief`), so that several measure each peer and the same ones go on
doing so.

Always: bounded in peers, bytes and time; what could not be measured is left out, never guessed, and
who cannot be measured has its turn like others, so it keeps nobody from theirs. The uplink is what
the fastest taker took from us, a lower bound that rises as more are measured.
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
"""A measured way takes 75 bytes of an announcement, which everyone keeps of everyone."""
FIRST_TRIES = 3
"""A newcomer that could not be measured so often waits for its turn."""


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
        self._tries: dict[PeerId, int] = {}
        """How often each was tried; who was not tried for longest comes first."""

    def newcomers(self) -> list[PeerId]:
        """Those whom this peer is to measure, has not measured and has not tried often."""
        return [
            peer
            for peer in self._subjects()
            if peer not in self._known and self._tries.get(peer, 0) < FIRST_TRIES
        ]

    def _subjects(self) -> list[PeerId]:
        member = self._here.member
        lending = [p for p, said in member.announcements().items() if said.speed is not None]
        return list(subjects_of(member.peer_id, lending))

    async def round(self, only: Collection[PeerId] | None = None) -> Ways:
        """Measure the next few peers, or of these; what is known of all of them."""
        present = self._subjects()
        turn = {peer: at for at, peer in enumerate(self._tries)}
        waiting = [peer for peer in present if only is None or peer in only]
        chosen = sorted(waiting, key=lambda p: (turn.get(p, -1), p))[:PEERS_PER_ROUND]
        for peer in chosen:
            self._tries[peer] = self._tries.pop(peer, 0) + 1
        for measured in await measure_some(
            self._here.requests, chosen, addresses=self._here.addresses_of
        ):
            self._known.pop(measured.peer, None)
            self._known[measured.peer] = measured
        for peer in self._tries.keys() - set(present):
            del self._tries[peer]
            self._known.pop(peer, None)
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
