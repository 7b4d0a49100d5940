"""Plans that were mentioned and asked for, and have not come yet.

Always: few at a time, each asked of one peer at a time, and given up when nobody has it.
"""

from dataclasses import dataclass, field

from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.types import PeerId

PULLS_AT_ONCE = 8
SOURCES_KEPT = 8


@dataclass(slots=True)
class _Pull:
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

    def __len__(self) -> int:
        return len(self._pulls)

    def ask(self, plan_hash: bytes, peer: PeerId, now_s: float) -> bool:
        """`peer` mentioned a plan worth having.

        Returns:
            Whether to ask it now; False when another was asked already, or too much is under way.
        """
        pull = self._pulls.get(plan_hash)
        if pull is not None:
            if peer not in pull.sources and len(pull.sources) < SOURCES_KEPT:
                pull.sources.append(peer)
            return False
        if len(self._pulls) >= PULLS_AT_ONCE:
            return False
        self._pulls[plan_hash] = _Pull(now_s)
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
            if pull.sources:
                pull.asked_s = now_s
                again.append((pull.sources.pop(0), plan_hash))
            else:
                del self._pulls[plan_hash]
        return again
