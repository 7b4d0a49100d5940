"""Whom to ping, and what to pass on.

A small swarm pings everyone. In a large one each peer pings its next neighbours on the ring of peer
ids every period, so that everyone is watched by a fixed few, and some others by chance, so that
news reaches all in logarithmic time (Demers et al., PODC 1987; SWIM, DSN 2002).

Always: the number of pings per period and of rumours per message is bounded, whatever the swarm's
size.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from math import ceil, log2
from random import Random

from helix_p2p.types import PeerId

RUMOURS_PER_MESSAGE = 8
RUMOURS_KEPT = 512
PINGS_REMEMBERED = 256


class Gossip:
    """Targets, rumours and the round trips that are under way.

    Args:
        me: This peer.
        rng: Chance.
        everyone_up_to: In swarms of at most so many others everyone is a target.
        fan_out: Targets per period in larger ones, half of them neighbours on the ring.
    """

    def __init__(self, me: PeerId, rng: Random, everyone_up_to: int, fan_out: int) -> None:
        self._me = me
        self._rng = rng
        self._everyone_up_to = everyone_up_to
        self._fan_out = fan_out
        self._rumours: OrderedDict[PeerId, int] = OrderedDict()
        self._sent_s: OrderedDict[int, tuple[PeerId, float]] = OrderedDict()
        self._number = rng.getrandbits(32)

    def watched(self, members: Sequence[PeerId]) -> list[PeerId]:
        """Members that this peer pings every period; `members` ascend and leave out this peer."""
        if len(members) <= self._everyone_up_to:
            return list(members)
        start = bisect_right(members, self._me)
        count = max(1, self._fan_out // 2)
        return [members[(start + step) % len(members)] for step in range(count)]

    def targets(self, members: Sequence[PeerId]) -> list[PeerId]:
        """Whom to ping this period: the watched, and in a large swarm some by chance."""
        watched = self.watched(members)
        if len(watched) == len(members):
            return watched
        spare = self._fan_out - len(watched)
        chance = self._rng.sample(members, min(spare + len(watched), len(members)))
        return watched + [peer for peer in chance if peer not in watched][:spare]

    def spread(self, peer: PeerId, members: int) -> None:
        """A member's announcement is news: pass it on with the next messages."""
        self._rumours.pop(peer, None)
        spread = max(1, ceil(log2(members + 2)))
        # Records are told until all have surely heard; of words, whoever missed one hears in turn.
        small = members <= self._everyone_up_to
        self._rumours[peer] = 3 * spread if small else spread + 4
        while len(self._rumours) > RUMOURS_KEPT:
            self._rumours.popitem(last=False)

    def is_large(self, members: Sequence[PeerId]) -> bool:
        """Whether not everyone is pinged, so that news is told by its word alone."""
        return len(members) > self._everyone_up_to

    def rumours(self, to: PeerId, most: int = RUMOURS_PER_MESSAGE) -> list[PeerId]:
        """Whose announcements to put into a message to `to`; the newest first."""
        chosen = [p for p in islice(reversed(self._rumours), most + 1) if p != to][:most]
        for peer in chosen:
            self._rumours[peer] -= 1
            if self._rumours[peer] <= 0:
                del self._rumours[peer]
        return chosen

    def ping_sent(self, to: PeerId, now_s: float) -> int:
        """The number for a ping sent now."""
        self._number = (self._number + 1) % 2**63
        self._sent_s[self._number] = (to, now_s)
        while len(self._sent_s) > PINGS_REMEMBERED:
            self._sent_s.popitem(last=False)
        return self._number

    def round_trip_s(self, peer: PeerId, number: int, now_s: float) -> float | None:
        """How long the ping with this number took; None when it was not sent to `peer`."""
        sent = self._sent_s.get(number)
        if sent is None or sent[0] != peer:
            return None
        del self._sent_s[number]
        return now_s - sent[1]
