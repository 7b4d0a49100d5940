"""Whom to ping, and what to pass on.

A small swarm pings everyone. In a large one each peer pings its next neighbours on the ring of peer
ids every period, so that everyone is watched by a fixed few, and some others by chance, so that
news reaches all in logarithmic time (Demers et al., PODC 1987; SWIM, DSN 2002).

Always: the number of pings per period and of rumours per message is bounded, whatever the swarm's
size.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from math import ceil, log2
from random import Random

from helix_p2p.membership.entry import MemberEntry
from helix_p2p.types import PeerId

RUMOURS_PER_MESSAGE = 8
RUMOURS_KEPT = 512
PINGS_REMEMBERED = 256
MANY = 64
FAN_OUT_AMONG_MANY = 2
"""Among many, one is watched and one called by chance: what has to be quick (beats, plans, losses
that were seen) goes out at once, and the rest reaches everyone in some rounds more."""
GONE_KEPT = 256
GONE_PER_MESSAGE = 16


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
        self._rumours: dict[PeerId, MemberEntry] = {}  # both are read newest first, each time
        self._gone: dict[bytes, int] = {}
        self._sent_s: dict[int, tuple[PeerId, float]] = {}
        self._number = rng.getrandbits(32)
        self._tellings_of = (0, 0)

    def watched(self, members: Sequence[PeerId]) -> list[PeerId]:
        """Members that this peer pings every period; `members` ascend and leave out this peer."""
        if len(members) <= self._everyone_up_to:
            return list(members)
        start = bisect_right(members, self._me)
        count = max(1, self._fan_out_among(members) // 2)
        return [members[(start + step) % len(members)] for step in range(count)]

    def _fan_out_among(self, members: Sequence[PeerId]) -> int:
        return self._fan_out if len(members) <= MANY else min(self._fan_out, FAN_OUT_AMONG_MANY)

    def some(self, members: Sequence[PeerId], most: int) -> list[PeerId]:
        """Some by chance."""
        return self._rng.sample(members, min(most, len(members)))

    def by_lot(self, expected: float) -> int:
        """So many on average: how many fall to this peer of what few of many are to do."""
        whole = int(expected)
        return whole + (self._rng.random() < expected - whole)

    def lost(self, word: bytes, members: int) -> None:
        """The member whose word this was is lost: pass it on with the next messages."""
        self._gone[word] = _tellings(members)
        while len(self._gone) > GONE_KEPT:
            del self._gone[next(iter(self._gone))]

    def gone(self, most: int = GONE_PER_MESSAGE) -> tuple[bytes, ...]:
        """The last words of lost members to put into a message; the newest first."""
        if not self._gone:
            return ()
        chosen = tuple(islice(reversed(self._gone), most))
        for word in chosen:
            self._gone[word] -= 1
            if self._gone[word] <= 0:
                del self._gone[word]
        return chosen

    def targets(self, members: Sequence[PeerId]) -> list[PeerId]:
        """Whom to ping this period: the watched, and in a large swarm some by chance."""
        watched = self.watched(members)
        if len(watched) == len(members):
            return watched
        spare = self._fan_out_among(members) - len(watched)
        chance = self._rng.sample(members, min(spare + len(watched), len(members)))
        return watched + [peer for peer in chance if peer not in watched][:spare]

    def spread(self, entry: MemberEntry, members: int) -> None:
        """A member's announcement is news: pass it on with the next messages."""
        self._rumours.pop(entry.peer, None)
        # Records are told until all have surely heard; of words, whoever missed one hears in turn.
        if members != self._tellings_of[0]:
            small = members <= self._everyone_up_to
            self._tellings_of = members, 3 * _rounds(members) if small else _tellings(members)
        self._rumours[entry.peer] = entry
        entry.tellings = self._tellings_of[1]
        while len(self._rumours) > RUMOURS_KEPT:
            del self._rumours[next(iter(self._rumours))]

    def is_large(self, members: Sequence[PeerId]) -> bool:
        """Whether not everyone is pinged, so that news is told by its word alone."""
        return len(members) > self._everyone_up_to

    def rumours(self, to: PeerId, most: int = RUMOURS_PER_MESSAGE) -> list[MemberEntry]:
        """Whose announcements to put into a message to `to`; the newest first.

        Of those who are no members any more there is nothing to tell.
        """
        chosen: list[MemberEntry] = []
        told: list[PeerId] = []
        looked_at = 0
        for entry in reversed(self._rumours.values()):
            if looked_at == most:
                break
            if entry.peer == to:
                continue
            looked_at += 1
            entry.tellings -= 1
            if entry.tellings <= 0:
                told.append(entry.peer)
            if entry.present:
                chosen.append(entry)
        for peer in told:
            del self._rumours[peer]
        return chosen

    def ping_sent(self, to: PeerId, now_s: float) -> int:
        """The number for a ping sent now."""
        self._number = (self._number + 1) % 2**63
        self._sent_s[self._number] = (to, now_s)
        if len(self._sent_s) > PINGS_REMEMBERED:  # most of those to the dead
            self._sent_s = dict(islice(self._sent_s.items(), PINGS_REMEMBERED // 2, None))
        return self._number

    def round_trip_s(self, peer: PeerId, number: int, now_s: float) -> float | None:
        """How long the ping with this number took; None when it was not sent to `peer`."""
        sent = self._sent_s.get(number)
        if sent is None or sent[0] != peer:
            return None
        del self._sent_s[number]
        return now_s - sent[1]


def _rounds(members: int) -> int:
    """In which news reaches so many when everyone who knows tells one more."""
    return max(1, ceil(log2(members + 2)))


def _tellings(members: int) -> int:
    """How often each tells a word: with eight tellings one of three thousand misses it."""
    rounds = _rounds(members)
    return rounds // 2 + 3 if members > MANY else rounds + 4
