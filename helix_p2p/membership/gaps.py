"""Plans that refer to announcements which this peer lacks, until those have come.

A plan is validated from itself and what it refers to, never from what this peer happens to know, so
a missing announcement is asked for by its content: of whoever sent the plan, then of others that
mention it. Who sends a plan and cannot bring what it rests on is not asked again for a while
(`pulls`), as with plans that do not come.

Always: bounded in plans, in bytes kept for them, and in time; one plan at a time of each peer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from helix_p2p.identity import Signed
from helix_p2p.membership.inquiry import Inquiry
from helix_p2p.membership.pulls import Pulls
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.planning.plan import Reference, SignedPlan
from helix_p2p.types import PeerId

PLANS_AT_ONCE = 16
CONTENTS_PER_QUESTION = 256
KEPT_LIMIT_BYTES = 16 * 1024 * 1024
"""Ten thousand announcements of 700 bytes are 7 MB; what a liar makes us keep ends here."""
PULLS_LONGEST = 10
"""A plan that is not whole after so many answer times is given up."""

Question = tuple[PeerId, tuple[bytes, ...]]


@dataclass(slots=True)
class _Gap:
    plan: SignedPlan
    missing: dict[bytes, None]
    inquiry: Inquiry
    opened_s: float
    found: dict[bytes, Signed] = field(default_factory=dict)
    kept_bytes: int = 0

    def question(self, peer: PeerId) -> Question:
        return peer, tuple(self.missing)[:CONTENTS_PER_QUESTION]


class Gaps:
    """See the module's description.

    Args:
        timing: Durations.
        pulls: Whom not to ask.
    """

    def __init__(self, timing: MembershipTiming, pulls: Pulls) -> None:
        self._timing = timing
        self._pulls = pulls
        self._gaps: dict[bytes, _Gap] = {}

    def __len__(self) -> int:
        return len(self._gaps)

    def open(self, plan: SignedPlan, source: PeerId, now_s: float) -> Question | None:
        """A plan came from `source` and is not whole.

        Returns:
            What to ask of whom; None when nothing is to be asked now.
        """
        if self.mentioned(plan.hash, source) or self._pulls.owes(source, now_s):
            return None
        if self._busy(source) or len(self._gaps) >= PLANS_AT_ONCE:
            return None
        # What is at hand now may be overtaken by news before the rest has come.
        found = dict(plan.referred)
        gap = _Gap(plan, dict.fromkeys(plan.missing), Inquiry({source: now_s}), now_s, found)
        self._gaps[plan.hash] = gap
        return gap.question(source)

    def mentioned(self, plan_hash: bytes, peer: PeerId) -> bool:
        """`peer` holds this plan, so it can be asked too; whether the plan waits here."""
        gap = self._gaps.get(plan_hash)
        if gap is None:
            return False
        gap.inquiry.mentioned(peer)
        return True

    def take(
        self, source: PeerId, records: Mapping[bytes, Signed], now_s: float
    ) -> tuple[list[SignedPlan], list[Question]]:
        """Announcements came, by content.

        Returns:
            Plans that are whole now (then they are `done`), and what to ask `source` next.
        """
        whole: list[SignedPlan] = []
        questions: list[Question] = []
        for gap in self._gaps.values():
            brought = gap.missing.keys() & records.keys()
            for content in brought:
                del gap.missing[content]
                gap.found[content] = records[content]
                gap.kept_bytes += len(records[content].body)
            if not gap.missing:
                whole.append(gap.plan)
            elif brought and source in gap.inquiry.asked:
                gap.inquiry.asked[source] = now_s
                questions.append(gap.question(source))
        self._shed(now_s)
        return whole, questions

    def found(self, references: Sequence[Reference]) -> dict[bytes, Signed]:
        """What came of these, for plans that wait or are just whole."""
        came: dict[bytes, Signed] = {}
        for gap in self._gaps.values():
            if not gap.missing and gap.plan.plan.references == references:
                return gap.found
            came |= gap.found
        return {r.content: came[r.content] for r in references if r.content in came} if came else {}

    def done(self, plan_hash: bytes) -> None:
        """The plan was taken or refused."""
        self._gaps.pop(plan_hash, None)

    def due(self, now_s: float) -> list[Question]:
        """Questions to put to further peers, since those asked take long or brought nothing."""
        again: list[Question] = []
        for plan_hash, gap in list(self._gaps.items()):
            if now_s - gap.opened_s >= PULLS_LONGEST * self._timing.pull_s:
                del self._gaps[plan_hash]
                continue
            for late in gap.inquiry.overdue(now_s, self._timing):
                self._pulls.blame(late, now_s)
            peer = gap.inquiry.next(now_s, self._timing, lambda one: self._free(one, now_s))
            if peer is not None:
                again.append(gap.question(peer))
            elif not gap.inquiry.asked:
                del self._gaps[plan_hash]
        return again

    def _busy(self, peer: PeerId) -> bool:
        return any(peer in gap.inquiry.asked for gap in self._gaps.values())

    def _free(self, peer: PeerId, now_s: float) -> bool:
        return not (self._busy(peer) or self._pulls.owes(peer, now_s))

    def _shed(self, now_s: float) -> None:
        """Give up whoever makes us keep the most, until the rest is within bounds."""
        while sum(gap.kept_bytes for gap in self._gaps.values()) > KEPT_LIMIT_BYTES:
            plan_hash = max(self._gaps, key=lambda one: self._gaps[one].kept_bytes)
            for peer in self._gaps.pop(plan_hash).inquiry.asked:
                self._pulls.blame(peer, now_s)
