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
from functools import cache
from random import Random

import numpy as np
import numpy.typing as npt

from helix_p2p.planning.capacity import FIRST, LAST, Capacities, Floats, Ints
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

    def gains(self, short: Ints, weights: Floats) -> Floats:
        """Weighted deficit that each range would fill, given what each layer is short of."""
        filled = np.zeros((self.caps.size, short.size + 1))
        np.cumsum(
            np.minimum(self.caps[:, None], short[None, :]) * weights, axis=1, out=filled[:, 1:]
        )
        gains: Floats = filled[self.cap_row, self.ends] - filled[self.cap_row, self.starts]
        return gains


@dataclass(frozen=True)
class _Grid:
    """All ranges of a model: places and lengths with their starts, shared by every peer."""

    starts: Ints
    lengths: Ints
    places: Ints


@cache
def _grid(layers: int) -> _Grid:
    lengths = np.repeat(np.arange(1, layers + 1), np.arange(layers, 0, -1))
    starts = np.concatenate([np.arange(layers - length + 1) for length in range(1, layers + 1)])
    places = FIRST * (starts == 0) + LAST * (starts + lengths == layers)
    return _Grid(starts, lengths, places)


def choices_of(
    capacities: Capacities, peer: int, shortest_share: float = 0.0, most_lengths: int = 0
) -> Choices:
    """The ranges of one peer; peers of one kind share them, and every search of one table does.

    Args:
        capacities: The table.
        peer: Its row.
        shortest_share: Leave out ranges shorter than this share of the peer's longest.
        most_lengths: Keep about so many lengths, most of them among the most useful; 0 keeps all.
    """
    key = (int(capacities.kind[peer]), shortest_share, most_lengths)
    known: dict[tuple[int, float, int], Choices] = capacities.remembered
    if key not in known:
        known[key] = _choices_of(capacities, peer, shortest_share, most_lengths)
    return known[key]


def _choices_of(
    capacities: Capacities, peer: int, shortest_share: float, most_lengths: int
) -> Choices:
    grid = _grid(capacities.layers)
    table, longest = capacities.mtokens_per_s[peer], capacities.longest[peer]
    least = np.maximum(1, np.ceil(shortest_share * longest).astype(np.int64))
    allowed = (table > 0) & (np.arange(capacities.layers + 1) >= least[:, None])
    allowed &= _useful_lengths(table, most_lengths)
    at = np.flatnonzero(allowed[grid.places, grid.lengths])
    starts, lengths, places = grid.starts[at], grid.lengths[at], grid.places[at]
    caps, rows = np.unique(table, return_inverse=True)
    rates = table[places, lengths]
    return Choices(
        starts, starts + lengths, rates, rows.reshape(table.shape)[places, lengths], caps
    )


def _useful_lengths(table: Ints, count: int) -> npt.NDArray[np.bool_]:
    """[L + 1]: two thirds among those with nearly the most units, the others evenly spread."""
    size = table.shape[1]
    kept = np.ones(size, dtype=bool)
    fits = np.flatnonzero(table.max(axis=0) > 0)
    if count <= 0 or fits.size <= count:
        return kept
    kept[:] = False
    units = (table[:, fits] * fits).max(axis=0)
    for lengths, share in ((fits[units >= 0.9 * units.max()], 2), (fits, 1)):
        spread = np.linspace(0, lengths.size - 1, min(lengths.size, count * share // 3))
        kept[lengths[spread.round().astype(np.int64)]] = True
    # The longest at each place stays, so that whatever fits at all can be placed.
    kept[[int(np.flatnonzero(row > 0).max(initial=0)) for row in table]] = True
    return kept


FEW_PEERS = 64
MOST_RUINED_OF_FEW, MOST_RUINED = 8, 5
HEAT_OF_FEW, HEAT = 0.04, 0.02
"""Accepted worsening, as a share of what one peer contributes on average. Tuned on home swarms: a
few peers want larger ruins and more heat (30 peers: 96.9 % of the bound in 3.5 s against 95.8 %),
1000 peers less of both, and so does a live placement that is to stay."""


COOLING = 0.7
COLDEST = 0.002


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
        prices: What a missing token per second weighs in each layer; empty for equally much.
    """

    capacities: Capacities
    start: Layout
    bound: int
    random: Random
    held: Layout | None = None
    move_penalty: float = 0.0
    shortest_share: float = 0.0
    prices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._weights = layer_weights(self.capacities.layers, self.prices)
        self._choices = [
            choices_of(self.capacities, row, self.shortest_share)
            for row in range(len(self.capacities.peers))
        ]
        self._usable = [row for row, c in enumerate(self._choices) if c.starts.size]
        self.start = self._allowed(self.start)
        self._starts, self._ends = self.start.starts.copy(), self.start.ends.copy()
        self._carried = self.capacities.of_layout(self._starts, self._ends)
        self._covered = coverage(self.capacities, self.start)
        self.best, self.value = self.start, int(self._covered.min())
        self.best_moved = self._moved()
        self._failed = self.bound
        self._hottest = HEAT_OF_FEW if self._few else HEAT
        self._warmth = self._hottest
        self._idle = 0
        self._cost = self._least = 0.0
        self._aim(self.value + (self.bound - self.value) * 9 // 10)

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
            # Too high: come down part of the way to what is known to be possible, and go on from
            # here, for a layout that nearly carries more is the best start for carrying this.
            self._failed = self._target
            self._warmth = self._warmth * COOLING if self._warmth > COLDEST else self._hottest
            self._aim(self.value + max(1, (self._target - self.value) * 3 // 5))

    @property
    def _few(self) -> bool:
        return len(self._choices) <= FEW_PEERS and self.held is None

    @property
    def _patience(self) -> int:
        return 230 if self._few else 100 + len(self._usable) // 2

    def _aim(self, target: int) -> None:
        self._target = max(self.value + 1, min(self.bound, target))
        self._heat = max(
            1.0, self._warmth * self._target * self.capacities.layers / len(self._choices)
        )
        self._cost = self._least = self._full_cost()
        self._idle = 0

    def _note(self) -> None:
        value = int(self._covered.min())
        if value > self.value:
            self.value = value
            self.best = Layout(self._starts.copy(), self._ends.copy())
            self.best_moved = self._moved()
            if value >= self._target:
                above = max(self._failed - value, self.bound // 200)
                self._aim(value + above // 2)
        if self._cost < self._least * 0.998:
            self._least = self._cost
            self._idle = 0

    def _ruin(self) -> list[int]:
        """A few peers, some of them around the weakest layer, in a random order."""
        usable = self._usable
        most = min(MOST_RUINED_OF_FEW if self._few else MOST_RUINED, 2 + len(usable) // 3)
        count = min(len(usable), 1 + int(self.random.random() ** 2 * most))
        if self.random.random() < 0.5:
            return self.random.sample(usable, count)
        weakest = int(self._covered.argmin())
        some = self.random.sample(usable, min(len(usable), 4 * count + 8))
        some.sort(
            key=lambda row: (abs(int(self._starts[row] + self._ends[row]) - 2 * weakest), row)
        )
        near = some[:count]
        self.random.shuffle(near)
        return near

    def _recreate(self, row: int) -> None:
        choices = self._choices[row]
        gains = choices.gains(np.maximum(0, self._target - self._covered), self._weights)
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
        deficit = float((np.maximum(0, self._target - self._covered) * self._weights).sum())
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


GREEDY_LENGTHS = 16
"""Lengths that greedy looks at; validators run it, so it must be quick."""

LEAST_WEIGHT = 0.05


def layer_weights(layers: int, prices: tuple[int, ...]) -> Floats:
    """[L]: what a missing token per second weighs in each layer, 1 on average."""
    if not prices:
        return np.ones(layers)
    given = np.array(prices, dtype=np.float64)
    weights = np.maximum(LEAST_WEIGHT, given / given.mean())
    scaled: Floats = weights / weights.mean()
    return scaled


def greedy(
    capacities: Capacities,
    aim: int,
    prices: tuple[int, ...] = (),
) -> Layout:
    """Each peer once, strongest first, where it fills the most deficit; no chance in it.

    Args:
        capacities: The table.
        aim: Each layer is filled up to this.
        prices: What the layers weigh; empty for equally much.
    """
    weights = layer_weights(capacities.layers, prices)
    lengths = np.arange(capacities.layers + 1, dtype=np.int64)
    strength = (np.minimum(capacities.best, aim) * lengths).max(axis=1)
    order = np.lexsort((np.arange(strength.size), -strength))
    count = len(capacities.peers)
    starts, ends = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    covered = np.zeros(capacities.layers, dtype=np.int64)
    for row in (int(r) for r in order):
        choices = choices_of(capacities, row, most_lengths=GREEDY_LENGTHS)
        if not choices.starts.size:
            continue
        gains = choices.gains(np.maximum(0, aim - covered), weights)
        pick = int(gains.argmax())
        if gains[pick] > 0:
            starts[row], ends[row] = choices.starts[pick], choices.ends[pick]
            covered[starts[row] : ends[row]] += choices.carried[pick]
    return Layout(starts, ends)


def greedy_baseline(capacities: Capacities, bound: int) -> Layout:
    """The best of a few aims; the same everywhere, so a validator may compare with it."""
    layouts = [greedy(capacities, max(1, bound * share // 100)) for share in (100, 90, 75, 50)]
    return max(layouts, key=lambda layout: int(coverage(capacities, layout).min()))
