"""What others measured beats what a peer claims.

A peer's word on its speed and its line is a claim: ten times the truth would draw ten times the
traffic. So some others, its witnesses, time a few of its layers and the way to it, and say in their
own announcements what they found. Plans are made, and checked, from what announcements say
together; so every peer that reads the same ones believes the same.

Who witnesses for whom follows from the peer ids, or those who want a peer gone would all speak
against it and be more than the few that happen to have measured it. One voice is none, of several
the middle one counts, and thrice as slow is no lie: so is a busy device, for who asks besides.

Always: nobody is cut down by fewer than `LEAST_WITNESSES`, nor by a minority of its witnesses;
nobody is believed faster than it says itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from math import isfinite
from statistics import median_low

from helix_p2p import codec
from helix_p2p.cluster.announcement import MOST_PACES, Announcement
from helix_p2p.types import PeerId

WITNESSES = MOST_PACES
"""Of one peer; each measures as many. Of 15 in a swarm with a fifth of liars, eight or more are
liars for one peer in 230."""
LEAST_WITNESSES = 3
DOUBT = 4.0
"""A claim is doubted when what was measured differs by more than this factor."""
MOST_SLOWER = 1e10
"""More than can be measured, or a lie would pay if only it were large enough: an answer is waited
for for 15 s, and nobody may claim less than a nanosecond (`profile.FASTEST_S`)."""


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of a peer's claims.

    Attributes:
        slower: How many times longer its layers take than it says; 1 when it is believed.
        uplink_bytes_per_s: The most that it is believed to send; None where nobody knows.
        downlink_bytes_per_s: The most that it is believed to receive, likewise.
    """

    slower: float = 1.0
    uplink_bytes_per_s: float | None = None
    downlink_bytes_per_s: float | None = None


FULL_BELIEF = Belief()


@lru_cache(maxsize=16384)
def _place(peer: PeerId) -> bytes:
    """On a ring where nobody sits by choice."""
    return codec.sha256(b"helix-p2p/witness\x00" + peer.encode())


def witnesses_of(peers: Sequence[PeerId]) -> dict[PeerId, tuple[PeerId, ...]]:
    """Who speaks for whom: the next few on a ring of hashed peer ids."""
    ring = sorted(peers, key=_place)
    count = min(WITNESSES, len(ring) - 1)
    return {
        peer: tuple(islice(chain(ring[at + 1 :], ring[:at]), count)) for at, peer in enumerate(ring)
    }


def subjects_of(me: PeerId, peers: Sequence[PeerId]) -> tuple[PeerId, ...]:
    """Whom `me` is a witness for, among these peers."""
    ring = sorted({*peers, me}, key=_place)
    at = ring.index(me)
    count = min(WITNESSES, len(ring) - 1)
    return tuple(islice(chain(reversed(ring[:at]), reversed(ring[at + 1 :])), count))


def beliefs(said: Mapping[PeerId, Announcement]) -> dict[PeerId, Belief]:
    """What to believe of each peer of whom its witnesses say otherwise.

    Args:
        said: Everyone's announcement, by peer.

    Returns:
        Only those that are not believed in full.
    """
    slower: dict[tuple[PeerId, PeerId], float] = {}
    sent: dict[tuple[PeerId, PeerId], float] = {}
    received: dict[tuple[PeerId, PeerId], float] = {}
    for witness, word in said.items():
        for pace in word.paces:
            if isfinite(pace.slower):
                slower[pace.peer, witness] = min(max(pace.slower, 1.0), MOST_SLOWER)
        for link in word.links:
            if _positive(link.bandwidth_bytes_per_s):
                received[link.peer, witness] = link.bandwidth_bytes_per_s or 0.0
            if _positive(link.back_bytes_per_s):
                sent[link.peer, witness] = link.back_bytes_per_s or 0.0
    if not (slower or sent or received):
        return {}
    found: dict[PeerId, Belief] = {}
    for peer, witnesses in witnesses_of(list(said)).items():
        word = said[peer]
        if len(witnesses) < LEAST_WITNESSES:
            continue
        # Who says nothing believes; else the first to speak would be the only ones.
        middle = median_low(slower.get((peer, w), 1.0) for w in witnesses)
        belief = Belief(
            middle if middle > DOUBT else 1.0,
            _line(word.uplink_bytes_per_s, [sent.get((peer, w)) for w in witnesses]),
            _line(word.downlink_bytes_per_s, [received.get((peer, w)) for w in witnesses]),
        )
        if belief != FULL_BELIEF:
            found[peer] = belief
    return found


def _line(claimed: float | None, told: list[float | None]) -> float | None:
    """What a line is believed to carry; None for what its owner claims.

    A transfer is bound by the slower end, so the upper quartile counts: three of four witnesses
    would have to lie to cut a peer down, and a quarter to hold a liar up.

    Args:
        claimed: By its owner.
        told: What each witness measured; None for one that says nothing. Half must have spoken.
    """
    measured = [width for width in told if width is not None]
    if claimed is None or len(measured) < max(LEAST_WITNESSES, len(told) / 2):
        return None
    likely = sorted(measured)[3 * len(measured) // 4]
    return likely if claimed > DOUBT * likely else None


def _positive(bytes_per_s: float | None) -> bool:
    return bytes_per_s is not None and isfinite(bytes_per_s) and bytes_per_s > 0
