"""Plans that were mentioned and asked for, and have not come yet.

A mention costs its author nothing, so it must not cost us much: who mentions a plan and does not
bring it is not asked again for a while. Else a few liars would keep us asking for plans that do not
exist, and a peer that waits for a plan does not step in as planner. Answers get lost, too: the
first that does not come costs little, each further one twice as much, and one that comes forgives.

Always: few at a time, one at a time of each peer, and given up when nobody has it.
"""

from collections import OrderedDict
from dataclasses import dataclass

from helix_p2p.membership.inquiry import Inquiry
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.types import PeerId

PULLS_AT_ONCE = 8
LIARS_KEPT = 1024
FIRST_DEBT_PULLS = 2.0
"""So many answer times a peer is not asked after the first answer that did not come."""


@dataclass(slots=True)
class _Debt:
    since_s: float
    length_s: float


class Pulls:
    """The questions under way, by plan hash.

    Args:
        timing: Durations.
    """

    def __init__(self, timing: MembershipTiming) -> None:
        self._timing = timing
        self._pulls: dict[bytes, Inquiry] = {}
        self._debts: OrderedDict[PeerId, _Debt] = OrderedDict()

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
            pull.mentioned(peer)
            return False
        if self._busy(peer) or len(self._pulls) >= PULLS_AT_ONCE:
            return False
        self._pulls[plan_hash] = Inquiry({peer: now_s})
        return True

    def done(self, plan_hash: bytes, source: PeerId) -> None:
        """The plan came from `source`, good or bad."""
        pull = self._pulls.pop(plan_hash, None)
        if pull is not None and source in pull.asked:
            self._debts.pop(source, None)

    def due(self, now_s: float) -> list[tuple[PeerId, bytes]]:
        """Questions to put to further peers, since those asked take long or did not answer."""
        again: list[tuple[PeerId, bytes]] = []
        for plan_hash, pull in list(self._pulls.items()):
            for late in pull.overdue(now_s, self._timing):
                self.blame(late, now_s)
            peer = pull.next(now_s, self._timing, lambda one: self._free(one, now_s))
            if peer is not None:
                again.append((peer, plan_hash))
            elif not pull.asked:
                del self._pulls[plan_hash]
        return again

    def _busy(self, peer: PeerId) -> bool:
        return any(peer in under_way.asked for under_way in self._pulls.values())

    def _free(self, peer: PeerId, now_s: float) -> bool:
        return not (self._busy(peer) or self.owes(peer, now_s))

    def owes(self, peer: PeerId, now_s: float) -> bool:
        """Whether it lately did not bring what it had mentioned."""
        debt = self._debts.get(peer)
        return debt is not None and now_s - debt.since_s < debt.length_s

    def blame(self, peer: PeerId, now_s: float) -> None:
        """It did not bring what it had mentioned."""
        known = self._debts.pop(peer, None)
        longest_s, length_s = self._timing.rejected_s, FIRST_DEBT_PULLS * self._timing.pull_s
        if known is not None and now_s - known.since_s < known.length_s + longest_s:
            length_s = 2 * known.length_s
        self._debts[peer] = _Debt(now_s, min(length_s, longest_s))
        while len(self._debts) > LIARS_KEPT:
            self._debts.popitem(last=False)
