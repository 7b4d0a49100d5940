"""Whether one other member lives, from what is heard of it and what others report.

A broken link or a silence is only a reason to probe; a report of someone else shortens the silence
that is suspicious, no more. A probe that fails is this peer's own evidence, which it reports;
eviction needs a second witness, or much longer silence when nobody agrees (the idea is SWIM's, Das
et al., DSN 2002, §4.2). How long a silence is suspicious
follows the link's own rhythm: mean and deviation of the gaps (Jacobson's estimator, SIGCOMM 1988).
A member that others vouch for (its sequence rises at them) stays a member, though not one that this
peer would route over.

    ALIVE ──link lost, silent──▶ SUSPECT ──probe fails──▶ FAILED ──witness or long silence──▶ evict
      ▲                             │                       │
      └──────── anything heard ─────┴───────────────────────┘

Always: nobody is evicted on the word of others alone, and anything heard from a member itself
clears every suspicion.
"""

from enum import Enum

from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.types import PeerId

DOUBTED_PINGS = 1.25
"""A member that others report is suspicious when it misses a ping and some."""


class Condition(Enum):
    """What is believed of a member."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    FAILED = "failed"


class Verdict(Enum):
    """What a check asks for."""

    NOTHING = "nothing"
    PROBE = "probe"
    REPORT = "report"
    EVICT = "evict"


class Detector:
    """Watches one member.

    Args:
        timing: Durations.
        now_s: It is known alive at this time.
    """

    __slots__ = (
        "_deviation_s",
        "_doubted",
        "_failed_s",
        "_gap_s",
        "_heard_s",
        "_monitored_s",
        "_probed_s",
        "_reported_s",
        "_reports",
        "_timing",
        "alive_s",
        "condition",
    )

    def __init__(self, timing: MembershipTiming, now_s: float) -> None:
        self._timing = timing
        self.condition = Condition.ALIVE
        self.alive_s = now_s
        self._heard_s: float | None = None
        self._gap_s = timing.ping_s
        self._deviation_s = timing.ping_s / 2
        self._monitored_s: float | None = None
        self._probed_s: float | None = None
        self._failed_s = 0.0
        self._reported_s: float | None = None
        self._reports: dict[PeerId, float] | None = None
        self._doubted = False

    @property
    def doubted(self) -> bool:
        """Whether others say that it is gone, and nothing was heard of it since."""
        return bool(self._reports)

    @property
    def silence_limit_s(self) -> float:
        """How long this link may be silent before it is suspicious."""
        adaptive_s = self._gap_s + 4 * self._deviation_s
        return min(max(adaptive_s, self._timing.silence_s), self._timing.silence_most_s)

    @property
    def present(self) -> bool:
        """Whether it lives as far as anyone knows, though perhaps out of our reach."""
        return self.condition is not Condition.FAILED or self.alive_s > self._failed_s

    def heard(self, now_s: float) -> None:
        """A message came from the member itself."""
        if self._heard_s is not None and self._monitored_s is not None:
            # What follows a long outage says nothing about the link's rhythm.
            gap_s = min(now_s - self._heard_s, self._timing.silence_most_s)
            self._deviation_s += 0.25 * (abs(gap_s - self._gap_s) - self._deviation_s)
            self._gap_s += 0.125 * (gap_s - self._gap_s)
        self._heard_s = now_s
        self._clear(now_s)

    def rose(self, at_s: float) -> None:
        """Its sequence rose at `at_s`, as others pass on: it lived then."""
        self.alive_s = max(self.alive_s, at_s)

    def link_lost(self, now_s: float) -> None:
        """A stream to it broke."""
        self._suspect(now_s)

    def unreachable(self, now_s: float) -> None:
        """A message could not be delivered; that counts when it was the probe.

        Before a probe it may only mean that an old stream broke.
        """
        if self.condition is Condition.SUSPECT and self._probed_s is not None:
            self._fail(now_s)
        else:
            self._suspect(now_s)

    def reported(self, witness: PeerId, now_s: float) -> None:
        """Another member says that it is gone."""
        if self._reports is None:
            self._reports = {}
        self._reports[witness] = now_s
        self._doubted = self.condition is Condition.ALIVE

    def forgive(self, slept_s: float) -> None:
        """We ourselves stood still for so long; that was not the member's silence."""
        self.alive_s += slept_s
        if self._heard_s is not None:
            self._heard_s += slept_s
        self._probed_s = None

    def check(
        self, now_s: float, *, monitored: bool, witnesses: int, stretch: float = 1.0
    ) -> Verdict:
        """What to do now.

        Args:
            now_s: Time.
            monitored: Whether we ping it every period.
            witnesses: How many other live members could have seen it go.
            stretch: A member that is not pinged may be silent so many times longer.
        """
        if not monitored:
            self._monitored_s = None
        elif self._monitored_s is None:
            self._monitored_s = now_s
        if self.condition is Condition.ALIVE:
            since_s = max(self.alive_s, self._monitored_s or self.alive_s)
            limit_s = self.silence_limit_s if monitored else stretch * self._timing.stale_s
            if self._reports and now_s - max(self._reports.values()) < self._timing.silence_s:
                limit_s = min(limit_s, DOUBTED_PINGS * self._timing.ping_s)
            if now_s - since_s <= limit_s:
                doubted, self._doubted = self._doubted, False
                return Verdict.PROBE if doubted else Verdict.NOTHING
            self._suspect(now_s)
        if self.condition is Condition.SUSPECT:
            if self._probed_s is None:
                self._probed_s = now_s
                return Verdict.PROBE
            if now_s - self._probed_s < self._timing.probe_s:
                return Verdict.NOTHING
            self._fail(now_s)
        return self._check_failed(now_s, witnesses)

    def _check_failed(self, now_s: float, witnesses: int) -> Verdict:
        evict_s = self._timing.evict_s
        if self._reported_s is None or now_s - self._reported_s >= evict_s:
            first = self._reported_s is None
            self._reported_s = now_s
            if first or self.present:
                return Verdict.REPORT
        last_s = max(self._failed_s, self.alive_s)
        since_s = max(now_s - 2 * evict_s, self.alive_s)
        agreed = self._reports is not None and max(self._reports.values()) > since_s
        patience_s = self._timing.probe_s if witnesses == 0 else evict_s
        if agreed or now_s - last_s >= patience_s:
            return Verdict.EVICT
        if self._probed_s is None or now_s - self._probed_s >= self._timing.probe_s:
            self._probed_s = now_s
            return Verdict.PROBE
        return Verdict.NOTHING

    def _suspect(self, now_s: float) -> None:
        if self.condition is Condition.ALIVE:
            self.condition = Condition.SUSPECT
            self._failed_s = now_s
            self._probed_s = None

    def _fail(self, now_s: float) -> None:
        if self.condition is Condition.SUSPECT:
            self.condition = Condition.FAILED
            self._failed_s = now_s

    def _clear(self, now_s: float) -> None:
        self.condition = Condition.ALIVE
        self.alive_s = max(self.alive_s, now_s)
        self._probed_s = None
        self._reported_s = None
        self._reports = None
        self._doubted = False
