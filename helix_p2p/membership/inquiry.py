"""One question, put to one peer after another of those that may answer it.

Answers get lost, and liars give none. So the next peer is asked as soon as an answer takes longer
than answers do (a hedged request: Dean and Barroso, "The Tail at Scale", 2013), while the one
before may still bring it.

Always: at most `ASKED_AT_ONCE` peers are asked at a time, and each is given the same time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.types import PeerId

ASKED_AT_ONCE = 3
SOURCES_KEPT = 8


@dataclass(slots=True)
class Inquiry:
    """Who is asked, and who else may know.

    Attributes:
        asked: Peers that have not answered yet, and since when.
        sources: Peers to ask next, in this order.
    """

    asked: dict[PeerId, float]
    sources: list[PeerId] = field(default_factory=list)

    def mentioned(self, peer: PeerId) -> None:
        """`peer` says that it knows the answer."""
        if peer in self.asked or peer in self.sources:
            return
        if len(self.sources) < SOURCES_KEPT:
            self.sources.append(peer)

    def overdue(self, now_s: float, timing: MembershipTiming) -> list[PeerId]:
        """Peers that did not answer in time; they are asked no longer."""
        late = [peer for peer, since_s in self.asked.items() if now_s - since_s >= timing.pull_s]
        for peer in late:
            del self.asked[peer]
        return late

    def next(
        self, now_s: float, timing: MembershipTiming, free: Callable[[PeerId], bool]
    ) -> PeerId | None:
        """Whom to ask now, too, of those that are `free`; None while the last may yet answer."""
        if len(self.asked) >= ASKED_AT_ONCE:
            return None
        if self.asked and now_s - max(self.asked.values()) < timing.hedge_s:
            return None
        for peer in self.sources:
            if free(peer):
                self.sources.remove(peer)
                self.asked[peer] = now_s
                return peer
        return None
