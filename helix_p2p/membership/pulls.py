"""Plans that were mentioned and asked for, and have not come yet.

A mention costs its author nothing, so it must not cost us much: who mentions a plan and does not
bring it is not asked again for a while. Else a few liars would keep us asking for plans that do not
exist, and a peer that waits for a plan does not step in as planner.

Always: few at a time, one at a time of each peer, each asked of one peer at a time, and given up
when nobody has it.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.types import PeerId

PULLS_AT_ONCE = 8
SOURCES_KEPT = 8
LIARS_KEPT = 1024


@dataclass(slots=True)
class _Pull:
    asked: PeerId
    asked_s: float
    sources: list[PeerId] = field(default_factory=list)


class Pulls:
    """The questions under way, by plan hash.

    Args:
        timing: Durations.
    """

    def __init__(self, timing: MembershipTiming) -> None:
        self._timing = timing
        self._pulls: dict[bytes, _Pull] = {}
        self._owing_s: OrderedDict[PeerId, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pulls)

    def ask(self, plan_hash: bytes, peer: PeerId, now_s: float) -> bool:
        """`peer` mentioned a plan worth having.

        Returns:
            Whether to ask it now; False when another was asked already, when it owes us an earlier
            plan, or when too much is under way.
        """
        if self.owes(peer, now_s):
            return False
        pull = self._pulls.get(plan_hash)
        if pull is not None:
            if peer not in pull.sources and len(pull.sources) < SOURCES_KEPT:
                pull.sources.append(peer)
            return False
        busy = any(under_way.asked == peer for under_way in self._pulls.values())
        if busy or len(self._pulls) >= PULLS_AT_ONCE:
            return False
        self._pulls[plan_hash] = _Pull(peer, now_s)
        return True

    def done(self, plan_hash: bytes) -> None:
        """The plan came, good or bad."""
        self._pulls.pop(plan_hash, None)

    def due(self, now_s: float) -> list[tuple[PeerId, bytes]]:
        """Questions to put to another peer, since the first did not answer in time."""
        again: list[tuple[PeerId, bytes]] = []
        for plan_hash, pull in list(self._pulls.items()):
            if now_s - pull.asked_s < self._timing.pull_s:
                continue
            self.blame(pull.asked, now_s)
            if pull.sources:
                pull.asked, pull.asked_s = pull.sources.pop(0), now_s
                again.append((pull.asked, plan_hash))
            else:
                del self._pulls[plan_hash]
        return again

    def owes(self, peer: PeerId, now_s: float) -> bool:
        """Whether it lately did not bring what it had mentioned."""
        owing_s = self._owing_s.get(peer)
        return owing_s is not None and now_s - owing_s < self._timing.rejected_s

    def blame(self, peer: PeerId, now_s: float) -> None:
        """It did not bring what it had mentioned."""
        self._owing_s.pop(peer, None)
        self._owing_s[peer] = now_s
        while len(self._owing_s) > LIARS_KEPT:
            self._owing_s.popitem(last=False)
