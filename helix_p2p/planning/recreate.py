"""Ruin and recreate: the search for swarms of any size, and the repair of a live placement.

Aim at a rate t. The deficit of a layout is Σ_l max(0, t − C_l); at 0 the layout carries t. One step
takes a few peers out (ruin) and puts each back where it fills the most deficit (recreate); a worse
layout is kept with a probability that falls with its deficit (annealing). When t is reached, t
rises; when it is not for a while, the aim halves its distance to the best value.

Always: deterministic for a seed and a number of steps; the best layout covers every layer and only
ever improves. A held layer that a peer would have to fetch costs `move_penalty`.
Source: Schrimpf et al. 2000 (ruin and recreate); the max-min cover view is docs/planning.md's.
"""

from dataclasses import dataclass
from random import Random

import numpy as np

from helix_p2p.planning.capacity import FIRST, LAST, MIDDLE, Capacities, Floats, Ints
from helix_p2p.planning.coverage import Layout, coverage


@dataclass(frozen=True)
class Choices:
    """Every range that one kind of peer can hold, flattened.

    Attributes:
        starts: First layer of each range.
        ends: Layer after the last.
        carried: Capacity on each.
        cap_row: Row of each range in the matrix of distinct capacities.
        caps: The distinct (capacity) rows.
    """

    starts: Ints
    ends: Ints
    carried: Ints
    cap_row: Ints
    caps: Ints

    def gains(self, short: Ints) -> Ints:
        """Deficit that each range would fill, given what each layer is short of."""
        filled = np.zeros((self.caps.size, short.size + 1), dtype=np.int64)
        np.cumsum(np.minimum(self.caps[:, None], short[None, :]), axis=1, out=filled[:, 1:])
        gains: Ints = filled[self.cap_row, self.ends] - filled[self.cap_row, self.starts]
        return gains


def choices_of(
    capacities: Capacities, peer: int, shortest_share: float = 0.0, most_lengths: int = 0
) -> Choices:
    """The ranges of one peer.

    Args:
        capacities: The table.
        peer: Its row.
        shortest_share: Leave out ranges shorter than this share of the peer's longest.
        most_lengths: Keep at most so many lengths, evenly spread; 0 keeps all.
    """
    layers = capacities.layers
    table, longest = capacities.mtokens_per_s[peer], capacities.longest[peer]
    least = [max(1, int(np.ceil(shortest_share * int(most)))) for most in longest]
    starts: list[int] = []
    ends: list[int] = []
    carried: list[int] = []
    for length in _lengths(min(least), int(longest.max()), most_lengths):
        for start in range(layers - length + 1):
            place = (FIRST if start == 0 else MIDDLE) | (LAST if start + length == layers else 0)
            rate = int(table[place, length])
            if rate > 0 and length >= least[place]:
                starts.append(start)
                ends.append(start + length)
                carried.append(rate)
    rates = np.array(carried, dtype=np.int64)
    caps, rows = np.unique(rates, return_inverse=True)
    return Choices(np.array(starts, np.int64), np.array(ends, np.int64), rates, rows, caps)


def _lengths(least: int, most: int, count: int) -> list[int]:
    if count <= 0 or most - least < count:
        return list(range(least, most + 1))
    return sorted({round(float(x)) for x in np.linspace(least, most, count)})


@dataclass
class Search:
    """A running search; `step` advances it.

    Args:
        capacities: The table.
        start: A layout that covers every layer.
        bound: No layout carries more.
        random: Its chance.
        held: The live layout, whose layers need no fetching.
        move_penalty: Deficit (thousandths of a token per second) that one fetched layer weighs.
        shortest_share: See `choices_of`.
    """

    capacities: Capacities
    start: Layout
    bound: int
    random: Random
    held: Layout | None = None
    move_penalty: float = 0.0
    shortest_share: float = 0.0
    most_lengths: int = 0

    def __post_init__(self) -> None:
        by_kind: dict[int, Choices] = {}
        kinds = self.capacities.kind
        for row, kind in enumerate(kinds):
            if int(kind) not in by_kind:
                by_kind[int(kind)] = choices_of(
                    self.capacities, row, self.shortest_share, self.most_lengths
                )
        self._choices = [by_kind[int(kind)] for kind in kinds]
        self._usable = [row for row, c in enumerate(self._choices) if c.starts.size]
        self.start = self._allowed(self.start)
        self._starts, self._ends = self.start.starts.copy(), self.start.ends.copy()
        self._carried = self.capacities.of_layout(self._starts, self._ends)
        self._covered = coverage(self.capacities, self.start)
        self.best, self.value = self.start, int(self._covered.min())
        self.best_moved = self._moved()
        self._step_up = max(1, (self.bound - self.value) // 2)
        self._idle = 0
        self._cost = 0.0
        self._aim()

    def _allowed(self, layout: Layout) -> Layout:
        """Without ranges that are too short for this search; they would stay for ever."""
        if self.shortest_share <= 0:
            return layout
        least = np.array(
            [int((c.ends - c.starts).min()) if c.starts.size else 0 for c in self._choices]
        )
        keep = layout.ends - layout.starts >= least
        return Layout(np.where(keep, layout.starts, 0), np.where(keep, layout.ends, 0))

    @property
    def done(self) -> bool:
        """Whether the bound is reached."""
        return self.value >= self.bound

    def step(self) -> None:
        """One ruin and one recreate."""
        if self.done or not self._usable:
            return
        rows = self._ruin()
        before = [(int(self._starts[r]), int(self._ends[r]), int(self._carried[r])) for r in rows]
        old_cost = self._cost
        for row in rows:
            self._put(row, 0, 0, 0)
        for row in rows:
            self._recreate(row)
        cost = self._full_cost()
        if cost <= old_cost or self.random.random() < np.exp((old_cost - cost) / self._heat):
            self._cost = cost
            self._note()
        else:
            for row, (start, end, carried) in zip(rows, before, strict=True):
                self._put(row, start, end, carried)
        self._idle += 1
        if self._idle > self._patience:
            self._step_up = max(1, self._step_up // 2)
            self._idle = 0
            self._restart()

    @property
    def _patience(self) -> int:
        return 60 + 2 * len(self._usable)

    def _aim(self) -> None:
        self._target = min(self.bound, self.value + self._step_up)
        self._heat = max(1.0, 0.002 * self._target * self.capacities.layers / 4)
        self._cost = self._full_cost()

    def _restart(self) -> None:
        self._starts, self._ends = self.best.starts.copy(), self.best.ends.copy()
        self._carried = self.capacities.of_layout(self._starts, self._ends)
        self._covered = coverage(self.capacities, self.best)
        self._aim()

    def _note(self) -> None:
        value = int(self._covered.min())
        if value > self.value:
            self.value = value
            self.best = Layout(self._starts.copy(), self._ends.copy())
            self.best_moved = self._moved()
            self._idle = 0
            if value >= self._target:
                self._step_up = max(1, self._step_up * 2)
                self._aim()

    def _ruin(self) -> list[int]:
        """A few peers, some of them around the weakest layer, in a random order."""
        usable = self._usable
        count = min(len(usable), 1 + int(self.random.random() ** 2 * min(12, 2 + len(usable) // 3)))
        if self.random.random() < 0.5:
            weakest = int(self._covered.argmin())
            away = np.abs((self._starts + self._ends) / 2 - weakest)
            near = sorted(usable, key=lambda row: (away[row] * (0.2 + self.random.random()), row))
            return near[:count] if len(usable) <= 64 else self.random.sample(near[:64], count)
        return self.random.sample(usable, count)

    def _recreate(self, row: int) -> None:
        choices = self._choices[row]
        gains = choices.gains(np.maximum(0, self._target - self._covered)).astype(np.float64)
        if self.held is not None and self.move_penalty > 0:
            gains -= self.move_penalty * self._fetched(row, choices.starts, choices.ends)
        top = float(gains.max())
        if top <= 0:
            return
        slack = (0.0, 0.0, 0.01, 0.05)[self.random.randrange(4)]
        good = np.flatnonzero(gains >= top * (1 - slack))
        pick = int(good[self.random.randrange(good.size)])
        self._put(
            row,
            int(choices.starts[pick]),
            int(choices.ends[pick]),
            int(choices.carried[pick]),
        )

    def _put(self, row: int, start: int, end: int, carried: int) -> None:
        self._covered[self._starts[row] : self._ends[row]] -= self._carried[row]
        self._covered[start:end] += carried
        self._starts[row], self._ends[row], self._carried[row] = start, end, carried

    def _full_cost(self) -> float:
        deficit = float(np.maximum(0, self._target - self._covered).sum())
        return deficit + (self.move_penalty * self._moved() if self.move_penalty > 0 else 0.0)

    def _moved(self) -> int:
        if self.held is None:
            return 0
        return int(fetched_layers(self.held, self._starts, self._ends).sum())

    def _fetched(self, row: int, starts: Ints, ends: Ints) -> Floats:
        assert self.held is not None
        low, high = int(self.held.starts[row]), int(self.held.ends[row])
        kept = np.maximum(0, np.minimum(ends, high) - np.maximum(starts, low))
        fetched: Floats = (ends - starts - kept).astype(np.float64)
        # A peer that held nothing is new: what it fetches is no migration.
        return fetched if high > low else np.zeros(fetched.size)


def fetched_layers(held: Layout, starts: Ints, ends: Ints) -> Ints:
    """[peers]: layers each peer that already held some would have to fetch."""
    kept = np.maximum(0, np.minimum(ends, held.ends) - np.maximum(starts, held.starts))
    fetched: Ints = np.where(held.ends > held.starts, (ends - starts) - kept, 0)
    return fetched


def greedy(capacities: Capacities, aim: int) -> Layout:
    """Each peer once, strongest first, where it fills the most deficit; no chance in it."""
    lengths = np.arange(capacities.layers + 1, dtype=np.int64)
    strength = (np.minimum(capacities.best, aim) * lengths).max(axis=1)
    order = np.lexsort((np.arange(strength.size), -strength))
    count = len(capacities.peers)
    starts, ends = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    covered = np.zeros(capacities.layers, dtype=np.int64)
    by_kind: dict[int, Choices] = {}
    for row in (int(r) for r in order):
        kind = int(capacities.kind[row])
        if kind not in by_kind:
            by_kind[kind] = choices_of(capacities, row, most_lengths=16)
        choices = by_kind[kind]
        if not choices.starts.size:
            continue
        gains = choices.gains(np.maximum(0, aim - covered))
        pick = int(gains.argmax())
        if gains[pick] > 0:
            starts[row], ends[row] = choices.starts[pick], choices.ends[pick]
            covered[starts[row] : ends[row]] += choices.carried[pick]
    return Layout(starts, ends)


def greedy_baseline(capacities: Capacities, bound: int) -> Layout:
    """The best of a few aims; the same everywhere, so a validator may compare with it."""
    layouts = [greedy(capacities, max(1, bound * share // 100)) for share in (100, 90, 75, 50)]
    return max(layouts, key=lambda layout: int(coverage(capacities, layout).min()))
