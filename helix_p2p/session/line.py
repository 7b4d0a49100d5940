"""Whose turn it is at an entry peer: the order of waiting generations, and bounds for one client.

Room is scarce when it matters, so it is shared between client identities, not between requests:
who has least on pipelines goes first (max-min fairness), and when the line is full the longest part
of it gives way to a newcomer (McKenney, "Stochastic fairness queueing", 1990: drop from the longest
queue). What ran already goes before all, since somebody is reading its answer.

Always: one identity can neither fill the line for others, nor start more than `starts_per_s` in
the long run, even if it cancels at once; what is opened at a time shrinks to one as soon as a stage
says that it is full, and doubles with each pipeline that opens (as TCP's slow start does).
"""

from collections import Counter
from collections.abc import Mapping

from helix_p2p.errors import Busy
from helix_p2p.session.generation import EntryLimits, Generation, GenerationKey, State
from helix_p2p.types import PeerId

MOST_OPENINGS = 64


class Line:
    """All generations of an entry peer; how many are in which state is kept, never recounted."""

    def __init__(self) -> None:
        self._all: dict[GenerationKey, Generation] = {}
        self._waiting: dict[GenerationKey, Generation] = {}
        self._on_pipelines: Counter[PeerId] = Counter()
        self.opening = 0

    @property
    def all(self) -> Mapping[GenerationKey, Generation]:
        """By client and its session."""
        return self._all

    @property
    def waiting(self) -> Mapping[GenerationKey, Generation]:
        """Those that wait for a pipeline."""
        return self._waiting

    def add(self, generation: Generation) -> None:
        """A new one; it waits."""
        self._all[generation.key] = self._waiting[generation.key] = generation

    def move(self, generation: Generation, state: State) -> None:
        """It waits, opens or runs from now on; one that is not here any more only notes it."""
        before, generation.state = generation.state, state
        if generation.key in self._all:
            self._count(generation, before, -1)
            self._count(generation, state, 1)

    def remove(self, generation: Generation) -> None:
        """It is over; twice counts once."""
        if self._all.pop(generation.key, None) is not None:
            self._count(generation, generation.state, -1)

    def next(self) -> Generation:
        """Who is to be opened next; somebody waits."""
        running = self._on_pipelines.get
        chosen, least = None, (True, 0, 0)
        for one in self._waiting.values():
            rank = (not one.interrupted, running(one.identity, 0), one.arrival)
            if chosen is None or rank < least:
                chosen, least = one, rank
        assert chosen is not None, "somebody waits"
        return chosen

    def check_share(self, identity: PeerId, limits: EntryLimits) -> Generation | None:
        """Whether a client may add a generation.

        Returns:
            The waiting generation of another client that gives way to it, None when none has to.

        Raises:
            Busy: It has too many already, or the line is full of those of clients that have fewer.
        """
        own = sum(g.identity == identity for g in self._all.values())
        if own >= limits.sessions_per_client:
            raise Busy(f"{own} requests of this client are here already", retry_after_s=2.0)
        waiting = self._waiting.values()
        if len(waiting) < limits.waiting_sessions:
            return None
        length = Counter(g.identity for g in waiting)
        longest = max(length, key=lambda peer: (length[peer], peer))
        latest = [g for g in waiting if g.identity == longest and not g.interrupted]
        if length[longest] <= length[identity] + 1 or not latest:
            raise Busy(f"{len(waiting)} requests wait here already", retry_after_s=2.0)
        return max(latest, key=lambda g: g.arrival)

    def _count(self, generation: Generation, state: State, by: int) -> None:
        if state is State.WAITING:
            if by > 0:
                self._waiting[generation.key] = generation
            else:
                del self._waiting[generation.key]
            return
        self._on_pipelines[generation.identity] += by
        if not self._on_pipelines[generation.identity]:
            del self._on_pipelines[generation.identity]
        if state is State.OPENING:
            self.opening += by


class StartRate:
    """A token bucket for each client; a full one is not kept.

    Args:
        per_s: New generations of one client, in the long run.
        burst: At once.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left: dict[PeerId, tuple[float, float]] = {}

    def take(self, identity: PeerId, now_s: float) -> None:
        """One more generation.

        Raises:
            Busy: Too many in too short a time.
        """
        if len(self._left) > 2 * self._burst:
            full = [p for p in self._left if self._level(p, now_s) >= self._burst]
            for peer in full:
                del self._left[peer]
        level = self._level(identity, now_s)
        if level < 1:
            raise Busy("this client starts too many requests", retry_after_s=1 / self._per_s)
        self._left[identity] = (level - 1, now_s)

    def _level(self, identity: PeerId, now_s: float) -> float:
        left, at_s = self._left.get(identity, (float(self._burst), now_s))
        return min(float(self._burst), left + (now_s - at_s) * self._per_s)


class OpeningPace:
    """How many generations may be opening at once."""

    def __init__(self) -> None:
        self.most = MOST_OPENINGS

    def full(self) -> None:
        """A stage had no room."""
        self.most = 1

    def opened(self) -> None:
        """Every stage of a pipeline had room."""
        self.most = min(MOST_OPENINGS, 2 * self.most)
