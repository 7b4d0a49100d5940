"""The sweep: a beam search over layers, and a proof when the beam never overflows.

To decide whether a rate t is possible, cover the layers from left to right: take the first layer
that is short of t and give a range to one more peer there. This loses nothing. Sort the ranges of
any cover by start; the next one starts at or before the first short layer p (or p would stay
short), and shifting it right so that it starts at p covers all the useful layers it covered before.
The exceptions are ranges at an end of the model, whose capacity differs: those that end at L or at
L - 1, and those that start at 0, are also tried unshifted where they carry more. Peers of one kind
are interchangeable, and ranges given at one p come in one order.

A state is what covers the layers ahead and how many peers of each kind are left. Its slack is what
these could still cover at best, less what is still short; a negative slack is a dead end. Per p the
`width` states with the most slack survive. If none was ever cut off, no cover carries t.

Always: deterministic; a layout that is found carries at least t; `complete` failures are proofs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from helix_p2p.planning.capacity import FIRST, LAST, MIDDLE, Capacities, Ints
from helix_p2p.planning.coverage import Layout, value_of

_CELLS = 4_000_000
"""Numbers in one intermediate array, 32 MB."""

Stop = Callable[[], bool]


@dataclass(frozen=True)
class Swept:
    """The outcome of one sweep.

    Attributes:
        layout: Carries the rate; None when none was found.
        complete: Nothing was cut off, so `layout is None` proves that the rate is impossible.
    """

    layout: Layout | None
    complete: bool


@dataclass(frozen=True)
class Proven:
    """The outcome of a search by sweeps.

    Attributes:
        layout: The best found, None when it is not better than what was known.
        bound: Proven: nothing carries more (thousandths of a token per second).
    """

    layout: Layout | None
    bound: int


def search_by_sweeps(
    capacities: Capacities,
    value: int,
    bound: int,
    width: int,
    stop: Stop,
    *,
    accuracy: float = 1e-3,
    on_value: Callable[[int, int], None] | None = None,
) -> Proven:
    """Bisect on the rate between a value that is reached and a bound.

    Args:
        capacities: The table.
        value: Reached already.
        bound: Proven already.
        width: Of the beam.
        stop: Asked in every round; True ends with what there is.
        accuracy: Stop when failures come this near to the value, relative to the bound; 0 goes on
            to the last thousandth, which is what a proof of optimality takes.
        on_value: Told of (value, bound) after each sweep.
    """
    best: Layout | None = None
    failed = bound + 1
    first = True
    while failed - value > max(1, int(accuracy * bound)) and not stop():
        # The bound itself is often reached; one sweep tells.
        aim = bound if first else (value + failed) // 2
        first = False
        swept = sweep(capacities, aim, width, stop)
        if swept.layout is not None:
            best, value = swept.layout, max(value, value_of(capacities, swept.layout))
        else:
            failed = aim
            if swept.complete:
                bound = min(bound, aim - 1)
        if on_value is not None:
            on_value(value, bound)
    return Proven(best, max(bound, value))


def sweep(capacities: Capacities, aim: int, width: int, stop: Stop) -> Swept:
    """Look for a layout that carries `aim` with a beam of `width` states per layer."""
    return _Sweep(capacities, aim, width, stop).run()


@dataclass
class _States:
    """Many partial covers with the same first short layer, row by row."""

    covered: Ints
    left: Ints
    last: Ints
    trace: Ints

    def take(self, rows: Ints) -> "_States":
        return _States(self.covered[rows], self.left[rows], self.last[rows], self.trace[rows])


@dataclass(frozen=True)
class _Options:
    """Ranges that may be given at one first short layer."""

    kind: Ints
    start: Ints
    end: Ints
    carried: Ints


def _take_better(
    carried: Ints, starts: Ints, where: slice | int, rates: Ints, begins: Ints | int
) -> None:
    better = rates > carried[:, where]
    carried[:, where] = np.where(better, rates, carried[:, where])
    starts[:, where] = np.where(better, begins, starts[:, where])


class _Sweep:
    def __init__(self, capacities: Capacities, aim: int, width: int, stop: Stop) -> None:
        self._layers, self._aim, self._width, self._stop = capacities.layers, aim, width, stop
        self._capacities = capacities
        _, rows, counts = np.unique(capacities.kind, return_index=True, return_counts=True)
        self._table = np.minimum(capacities.mtokens_per_s[rows], aim)
        self._counts = counts.astype(np.int64)
        self._history: list[tuple[int, int, int, int]] = []  # (parent, kind, start, end)
        self._complete = True
        self._buckets: dict[int, list[_States]] = {}

    def run(self) -> Swept:
        layers = self._layers
        self._buckets[0] = [
            _States(
                np.zeros((1, layers), dtype=np.int64),
                self._counts[None, :].copy(),
                np.full(1, -1, dtype=np.int64),
                np.full(1, -1, dtype=np.int64),
            )
        ]
        for at in range(layers):
            options = self._options(at)
            potential = self._potential(at)
            while at in self._buckets:
                if self._stop():
                    return Swept(None, complete=False)
                states = self._best(self._buckets.pop(at), at, potential)
                if states is None:
                    break
                self._expand(states, options, at, potential)
                if layers in self._buckets:
                    return Swept(self._layout(self._buckets[layers][0]), complete=self._complete)
        return Swept(None, complete=self._complete)

    def _options(self, at: int) -> _Options:
        """Per kind and end the placing that carries most; a shorter one must carry more yet."""
        table, layers = self._table, self._layers
        ends = np.arange(at + 1, layers + 1)
        place = (FIRST if at == 0 else MIDDLE) + LAST * (ends == layers)
        carried = table[:, place, ends - at].copy()
        starts = np.full(carried.shape, at, dtype=np.int64)
        if at > 0:
            # The exceptions: unshifted ranges from the very start, and up to L or L - 1.
            from_zero = table[:, FIRST + LAST * (ends == layers), ends]
            _take_better(carried, starts, slice(None), from_zero, 0)
            for end, kind in ((layers, LAST), (layers - 1, MIDDLE)):
                if at > 1 and end > at:
                    lengths = end - np.arange(1, at)
                    rates = table[:, kind, lengths]
                    pick = rates.argmax(axis=1)
                    best = rates.max(axis=1)
                    _take_better(carried, starts, end - at - 1, best, 1 + pick)
        longer = np.zeros_like(carried)
        longer[:, :-1] = np.maximum.accumulate(carried[:, :0:-1], axis=1)[:, ::-1]
        kinds, columns = np.nonzero(carried > longer)
        return _Options(kinds, starts[kinds, columns], ends[columns], carried[kinds, columns])

    def _potential(self, at: int) -> Ints:
        """[kinds]: units that a peer can cover at most from layer `at` on."""
        lengths = np.minimum(np.arange(self._layers + 1), self._layers - at)
        most: Ints = (self._table * lengths).max(axis=(1, 2))
        return most

    def _slack(self, states: _States, at: int, potential: Ints) -> Ints:
        short = (self._aim - states.covered[:, at:]).sum(axis=1)
        slack: Ints = states.left @ potential - short
        return slack

    def _best(self, parts: list[_States], at: int, potential: Ints) -> _States | None:
        states = _States(
            np.concatenate([p.covered for p in parts]),
            np.concatenate([p.left for p in parts]),
            np.concatenate([p.last for p in parts]),
            np.concatenate([p.trace for p in parts]),
        )
        slack = self._slack(states, at, potential)
        keys = np.concatenate([states.covered[:, at:], states.left, states.last[:, None]], axis=1)
        seen: set[bytes] = set()
        rows: list[int] = []
        for row in np.argsort(-slack, kind="stable"):
            if slack[row] < 0:
                break
            key = keys[row].tobytes()
            if key in seen:
                continue
            if len(rows) == self._width:
                self._complete = False
                break
            seen.add(key)
            rows.append(int(row))
        return states.take(np.array(rows, dtype=np.int64)) if rows else None

    def _expand(self, states: _States, options: _Options, at: int, potential: Ints) -> None:
        count = options.kind.size
        if count == 0:
            return
        layers = np.arange(at, self._layers)
        reach = (options.start[:, None] <= layers) & (layers < options.end[:, None])
        most = np.where(reach, options.carried[:, None], 0)
        slack = self._slack(states, at, potential)
        step = max(1, _CELLS // (count * layers.size))
        parts = []
        for begin in range(0, slack.size, step):
            short = self._aim - states.covered[begin : begin + step, at:]
            parts.append(np.minimum(most[None], short[:, None]).sum(axis=2))
        after = slack[:, None] - potential[options.kind][None] + np.concatenate(parts)
        allowed = (after >= 0) & (states.left[:, options.kind] > 0)
        allowed &= np.arange(count)[None] >= states.last[:, None]
        rows, picks = np.nonzero(allowed)
        if rows.size > 4 * self._width:
            order = np.argsort(-after[rows, picks], kind="stable")[: 4 * self._width]
            self._complete = False
            rows, picks = rows[order], picks[order]
        if rows.size:
            self._children(states, options, at, rows, picks)

    def _children(
        self, states: _States, options: _Options, at: int, rows: Ints, picks: Ints
    ) -> None:
        layers = np.arange(self._layers)
        start, end = options.start[picks, None], options.end[picks, None]
        inside = (start <= layers) & (layers < end)
        covered = states.covered[rows] + np.where(inside, options.carried[picks, None], 0)
        covered = np.minimum(covered, self._aim)
        left = states.left[rows].copy()
        left[np.arange(rows.size), options.kind[picks]] -= 1
        base = len(self._history)
        for row, pick in zip(rows, picks, strict=True):
            self._history.append(
                (
                    int(states.trace[row]),
                    int(options.kind[pick]),
                    int(options.start[pick]),
                    int(options.end[pick]),
                )
            )
        short = covered < self._aim
        nexts = np.where(short.any(axis=1), short.argmax(axis=1), self._layers)
        trace = base + np.arange(rows.size, dtype=np.int64)
        for place in np.unique(nexts):
            chosen = np.flatnonzero(nexts == place)
            last = picks[chosen] if place == at else np.full(chosen.size, -1, dtype=np.int64)
            self._buckets.setdefault(int(place), []).append(
                _States(covered[chosen], left[chosen], last, trace[chosen])
            )

    def _layout(self, states: _States) -> Layout:
        count = len(self._capacities.peers)
        starts, ends = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        members = {
            k: list(np.flatnonzero(self._capacities.kind == k)) for k in range(self._counts.size)
        }
        at = int(states.trace[0])
        while at >= 0:
            at, kind, start, end = self._history[at]
            row = members[kind].pop(0)
            starts[row], ends[row] = start, end
        return Layout(starts, ends)
