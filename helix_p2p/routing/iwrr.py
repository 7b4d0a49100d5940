"""Interleaved weighted round robin by virtual time: shares follow weights, in the smallest bursts.

Each choice moves the chosen target's clock on by `cost / weight`; the target whose clock stands
lowest is next (Helix, ASPLOS 2025, §5.1, with tokens as cost; start-time fair queueing, Goyal 1996,
gives the bound). Over any run of choices, two targets that were always allowed differ from their
shares by at most one of their own turns.

Always: a target that joins late, or was not allowed for a while, starts no earlier than the virtual
time, so it is neither flooded nor starved; ties go to the smaller name, so equal inputs give equal
choices. A target that is preferred may go before its turn, but never by more than `AHEAD_TURNS` of
its own turns, and it is charged all the same; so shares hold over any longer run.
"""

from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

T = TypeVar("T", bound=str)

AHEAD_TURNS = 4.0


class InterleavedRoundRobin(Generic[T]):
    """Chooses among weighted targets."""

    def __init__(self) -> None:
        self._weights: dict[T, float] = {}
        self._clocks: dict[T, float] = {}
        self._now = 0.0

    @property
    def weights(self) -> Mapping[T, float]:
        """What is chosen from."""
        return self._weights

    def set_weights(self, weights: Mapping[T, float]) -> None:
        """Replace the weights; a target that stays keeps its clock.

        Args:
            weights: Positive, any scale.
        """
        if any(not weight > 0 for weight in weights.values()):
            raise ValueError("weights are positive")
        self._weights = dict(weights)
        self._clocks = {t: clock for t, clock in self._clocks.items() if t in weights}

    def choose(
        self,
        allowed: Collection[T] | None = None,
        cost: float = 1.0,
        preferred: T | None = None,
    ) -> T | None:
        """Take the next target and charge it.

        Args:
            allowed: Choose only among these; None allows all.
            cost: What the choice costs, e.g. expected tokens.
            preferred: Taken before its turn, if it is allowed and not too far ahead already.

        Returns:
            The target, or None when nothing is allowed.
        """
        starts = {
            target: self._start(target, cost)
            for target in self._weights
            if allowed is None or target in allowed
        }
        if not starts:
            return None
        chosen = min(starts, key=lambda target: (starts[target], target))
        for target, start in starts.items():
            self._clocks[target] = start
        self._now = max(self._now, starts[chosen])
        if preferred is not None and preferred in starts:
            ahead = (starts[preferred] - self._now) * self._weights[preferred]
            chosen = preferred if ahead <= AHEAD_TURNS * cost else chosen
        self._clocks[chosen] = starts[chosen] + cost / self._weights[chosen]
        return chosen

    def _start(self, target: T, cost: float) -> float:
        clock = self._clocks.get(target)
        if clock is None:  # half a turn late, so that the heaviest newcomers go first
            return self._now + cost / (2 * self._weights[target])
        return max(clock, self._now)
