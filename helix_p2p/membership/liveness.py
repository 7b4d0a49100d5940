"""Which members are well: whose failure detector is run when, and who may be routed over.

A tick of a large swarm cannot look at everyone. Those that this peer pings, those that are doubted
and those that are unwell are looked at each time, the others in turn: all they can do is grow
stale, and that takes minutes.

Always: `serving` holds exactly the members that are alive and have something to serve; whoever is
not alive, or is doubted, is looked at in every round until that is over.
"""

from collections.abc import Collection, Mapping, Sequence

from helix_p2p.cluster.announcement import ROUTED
from helix_p2p.membership.detector import Condition, Verdict
from helix_p2p.membership.entry import MemberEntry
from helix_p2p.types import LayerRange, PeerId

CHECKED_AT_ONCE = 32
IN_TURN = 4
"""Up to 32 members are all looked at each tick; of more, four in turn, which is soon enough: what
is looked for then is an age of minutes, and of hours among thousands."""
STALE_STRETCH_MEMBERS = 64
"""With more members they may grow older before they are probed, so that probes stay few."""


def stretch_of(members: int, small: int = STALE_STRETCH_MEMBERS) -> float:
    """How many times longer things may take in a swarm of so many, where `small` is no reason."""
    return max(1.0, members / small)


class Liveness:
    """The bookkeeping over the members' detectors; `note` keeps it in step with each."""

    def __init__(self) -> None:
        self.serving: dict[PeerId, LayerRange] = {}
        self.version = 0
        """Rises whenever `serving` changes."""
        self._uneasy: dict[PeerId, None] = {}
        self._monitored: frozenset[PeerId] = frozenset()
        self._next_check = 0

    @property
    def calm(self) -> bool:
        """Whether everyone is well as far as is known."""
        return not self._uneasy

    def note(self, entry: MemberEntry) -> None:
        """A member's announcement or its detector may have changed."""
        peer, alive = entry.peer, entry.detector.condition is Condition.ALIVE
        if alive and not entry.detector.doubted:
            self._uneasy.pop(peer, None)
        else:
            self._uneasy[peer] = None
        said = entry.announcement
        routable = said.serving if alive and said.state in ROUTED else None
        if routable is None:
            if self.serving.pop(peer, None) is not None:
                self.version += 1
        elif self.serving.get(peer) != routable:
            self.serving[peer] = routable
            self.version += 1

    def drop(self, peer: PeerId) -> None:
        """It is a member no longer."""
        self._uneasy.pop(peer, None)
        if self.serving.pop(peer, None) is not None:
            self.version += 1

    def check(
        self,
        members: Mapping[PeerId, MemberEntry],
        ring: Sequence[PeerId],
        now_s: float,
        monitored: Collection[PeerId],
    ) -> list[tuple[PeerId, Verdict]]:
        """Run the detectors that are due.

        Args:
            members: Everyone.
            ring: Their ids, ascending.
            now_s: Time.
            monitored: Whom we ping every period.

        Returns:
            Whom to probe, report or drop; those without need are left out.
        """
        now_monitored = frozenset(monitored)
        dropped = self._monitored - now_monitored
        self._monitored = now_monitored
        due = sorted({*self._uneasy, *now_monitored, *dropped, *self._in_turn(ring)})
        return self._run(members, due, now_s)

    def check_one(
        self,
        members: Mapping[PeerId, MemberEntry],
        peer: PeerId,
        now_s: float,
        monitored: Collection[PeerId],
    ) -> list[tuple[PeerId, Verdict]]:
        """Run the detector of one; arguments and result as for `check`."""
        if peer in monitored:
            self._monitored |= {peer}
        return self._run(members, (peer,), now_s)

    def _run(
        self, members: Mapping[PeerId, MemberEntry], due: Sequence[PeerId], now_s: float
    ) -> list[tuple[PeerId, Verdict]]:
        alive = len(members) - sum(
            members[p].detector.condition is not Condition.ALIVE for p in self._uneasy
        )
        stretch = stretch_of(len(members))
        verdicts: list[tuple[PeerId, Verdict]] = []
        for peer in due:
            entry = members.get(peer)
            if entry is None:
                continue
            detector = entry.detector
            others = alive - (detector.condition is Condition.ALIVE)
            verdict = detector.check(
                now_s, monitored=peer in self._monitored, witnesses=others, stretch=stretch
            )
            if verdict is Verdict.NOTHING and peer not in self._uneasy:
                continue
            self.note(entry)
            if verdict is not Verdict.NOTHING:
                verdicts.append((peer, verdict))
        return verdicts

    def _in_turn(self, ring: Sequence[PeerId]) -> Sequence[PeerId]:
        if len(ring) <= CHECKED_AT_ONCE:
            return ring
        start, self._next_check = self._next_check, self._next_check + IN_TURN
        if self._next_check >= len(ring):
            self._next_check = 0
        return ring[start : start + IN_TURN]
