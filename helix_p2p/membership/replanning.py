"""When the planner plans again: at once for a loss, after a moment for a join, one job at a time.

Always: at most one solver job counts; the answer to an older one is ignored, and an answer that
assigns layers to a peer that has gone since is not published.
"""

from helix_p2p.membership.timing import MembershipTiming


class Desk:
    """The planner's calendar.

    Args:
        timing: Durations.
    """

    def __init__(self, timing: MembershipTiming) -> None:
        self._timing = timing
        self._request = 0
        self._running = False
        self._due_s: float | None = None
        self._asked_s: float | None = None
        self._urgent = False

    def at_once(self, now_s: float) -> None:
        """A loss: plan as soon as the solver is free."""
        self._due_s, self._urgent = now_s, True

    def soon(self, now_s: float) -> None:
        """A join or a change: wait for more of them, but not for ever."""
        if self._urgent:
            return
        if self._asked_s is None:
            self._asked_s = now_s
        self._due_s = min(now_s + self._timing.replan_s, self._asked_s + self._timing.replan_most_s)

    def later(self, now_s: float) -> None:
        """The solver failed for a passing reason: try again after a while."""
        if self._due_s is None:
            self._due_s = now_s + self._timing.retry_plan_s

    def clear(self) -> None:
        """We are not the planner (any more)."""
        self._due_s = self._asked_s = None
        self._urgent = self._running = False

    def supersede(self) -> None:
        """The running job's answer would be of no use; the next one need not wait for it."""
        self._running = False

    def take(self, now_s: float) -> int | None:
        """The number of a request to start now, if one is due and the solver is free."""
        if self._running or self._due_s is None or now_s < self._due_s:
            return None
        self._due_s = self._asked_s = None
        self._urgent, self._running = False, True
        self._request += 1
        return self._request

    def finish(self, request: int) -> bool:
        """An answer came; whether it is to the request that counts."""
        if not self._running or request != self._request:
            return False
        self._running = False
        return True
