"""Who says that a member is gone, so that they are told when it is not.

When one link breaks and both ends live, the others hear the member they are told is gone, and pass
its next announcement on to whoever doubts it (SWIM's refutation, Das et al., DSN 2002, §4.2).

Always: a doubt is forgotten after a few eviction times; so nothing here grows.
"""

from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.types import PeerId

DOUBTERS_PER_MEMBER = 8
DOUBTED_MEMBERS = 256
LASTS_EVICTIONS = 3


class Disputes:
    """Doubts, by the member that is doubted.

    Args:
        timing: Durations.
    """

    def __init__(self, timing: MembershipTiming) -> None:
        self._lasts_s = LASTS_EVICTIONS * timing.evict_s
        self._doubts: dict[PeerId, dict[PeerId, float]] = {}

    def add(self, member: PeerId, doubter: PeerId, now_s: float) -> None:
        """`doubter` says that `member` is gone."""
        doubts = self._doubts.setdefault(member, {})
        if doubter in doubts or len(doubts) < DOUBTERS_PER_MEMBER:
            doubts[doubter] = now_s
        while len(self._doubts) > DOUBTED_MEMBERS:
            del self._doubts[next(iter(self._doubts))]

    def is_doubted(self, member: PeerId, now_s: float) -> bool:
        """Whether somebody said lately that `member` is gone."""
        doubts = self._doubts.get(member)
        return doubts is not None and any(now_s - at < self._lasts_s for at in doubts.values())

    def doubters(self, member: PeerId, now_s: float) -> list[PeerId]:
        """Whom to tell that `member` was heard just now."""
        doubts = self._doubts.get(member)
        if doubts is None:
            return []
        fresh = {d: at_s for d, at_s in doubts.items() if now_s - at_s < self._lasts_s}
        if fresh:
            self._doubts[member] = fresh
        else:
            del self._doubts[member]
        return list(fresh)
