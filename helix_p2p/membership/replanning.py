"""When the planner plans again: at once for a loss that hurts, after a while for small changes.

A swarm of a thousand loses somebody every few seconds. Planning each time would keep the solver
busy and everyone loading; routing goes round the lost peer anyway. So what changes less than a
twentieth of the plan waits for more of its kind: a moment in a small swarm, half a minute to
two in a large one.

What a change asks for is a repair, which is quick. When all is calm again the planner looks for
something better, which takes longer and gives way to the next change.

Always: at most one solver job counts; the answer to an older one is ignored, and an answer that
assigns layers to a peer that has gone since is not published.
"""

from helix_p2p.membership.timing import MembershipTiming

CALM_MEMBERS = 250
MOST_CALM = 4.0
"""A plan goes to everyone, and some move by it: among thousands every two minutes is enough."""
LEAST_CHANGE = 0.05


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
        self._changes = 0
        self._improve_due_s: float | None = None
        self._improving = False

    def at_once(self, now_s: float) -> None:
        """A loss: plan as soon as the solver is free."""
        self._due_s, self._urgent = now_s, True

    def soon(self, now_s: float, members: int = 0) -> None:
        """A change that matters little in a swarm of so many: wait for more, but not for ever.

        When so many changes have gathered that they matter, they wait for a moment only.
        """
        if self._urgent:
            return
        if self._asked_s is None:
            self._asked_s, self._changes = now_s, 0
        self._changes += 1
        timing, calm = self._timing, min(MOST_CALM, members / CALM_MEMBERS)
        if self._changes > LEAST_CHANGE * members:
            calm = 0.0
        wait_s = timing.replan_s + calm * (timing.replan_calm_s - timing.replan_s)
        most_s = timing.replan_most_s + calm * (timing.replan_calm_s - timing.replan_most_s)
        self._due_s = min(now_s + wait_s, self._asked_s + most_s)

    def later(self, now_s: float) -> None:
        """The solver failed for a passing reason: try again after a while."""
        if self._due_s is None:
            self._due_s = now_s + self._timing.retry_plan_s

    def improve(self, now_s: float, members: int = 0) -> None:
        """The plan was changed: look for a better one after a while."""
        if self._improve_due_s is None:
            timing, calm = self._timing, min(1.0, members / CALM_MEMBERS)
            wait_s = timing.improve_s + calm * (timing.improve_calm_s - timing.improve_s)
            self._improve_due_s = now_s + wait_s

    def clear(self) -> None:
        """We are not the planner (any more)."""
        self._due_s = self._asked_s = self._improve_due_s = None
        self._urgent = self._running = self._improving = False

    @property
    def running(self) -> bool:
        """Whether a job is under way whose answer counts."""
        return self._running

    def supersede(self) -> None:
        """The running job's answer would be of no use; the next one need not wait for it."""
        self._running = self._improving = False

    def take(self, now_s: float) -> int | None:
        """The number of a repair to start now, if one is due and no other is under way.

        An improvement that is under way is given up.
        """
        busy = self._running and not self._improving
        if busy or self._due_s is None or now_s < self._due_s:
            return None
        self._due_s = self._asked_s = None
        self._urgent, self._running, self._improving = False, True, False
        self._request += 1
        return self._request

    def take_improvement(self, now_s: float) -> int | None:
        """The number of an improvement to start now, if one is due and nothing is under way."""
        if self._running or self._improve_due_s is None or now_s < self._improve_due_s:
            return None
        self._improve_due_s = None
        self._running = self._improving = True
        self._request += 1
        return self._request

    def finish(self, request: int) -> bool:
        """An answer came; whether it is to the request that counts."""
        if not self._running or request != self._request:
            return False
        self._running = self._improving = False
        return True
