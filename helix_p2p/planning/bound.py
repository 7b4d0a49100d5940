"""A proven upper bound on the flow of any placement, rechecked by anyone in milliseconds.

Put a price p_l ≥ 0 on every layer, Σ p_l = 1. If a placement carries t, every layer is covered t
times over, so what its peers cover is worth at least t. A peer that holds a range is worth at most
min(T'_i(range), t) · p(range). Hence t ≤ Σ_i max over ranges of min(T'_i, t) · p(range), and the
largest t that satisfies it bounds every placement. Equal prices give design's fixed-point bound,
t·L ≤ Σ_i max_k k·min(T'_i(k), t). Better prices are the dual solution of the cover's linear
relaxation: they matter where the ends of the model are worth more or less than its middle (a last
stage needs no uplink; a first one holds the embedding).

Always: whatever the prices, the bound holds; a poor price list only makes it loose. Links can only
lower the true optimum.
Source: LP duality (Lagrangian of the max-min cover); own formulation.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix

from helix_p2p.planning.capacity import FIRST, LAST, MIDDLE, WHOLE, Capacities, Floats, Ints

PRICE_UNITS = 1_000_000
"""Prices are stated as whole numbers that add up to about this."""

_SAMPLED_PEERS = 160
_LENGTHS_PER_PLACE = 10


def upper_bound(capacities: Capacities, prices: Sequence[int] = ()) -> int:
    """Thousandths of a token per second that no placement exceeds.

    Args:
        capacities: The table.
        prices: One per layer, not negative, not all 0; empty for equal prices.

    Raises:
        ValueError: The prices are not such.
    """
    if not capacities.peers:
        return 0
    layers = capacities.layers
    given = np.array(prices if len(prices) else [1] * layers, dtype=np.float64)
    if given.size != layers or not bool((given >= 0).all()) or not 0 < given.sum() < float("inf"):
        raise ValueError("a bound needs one price per layer, none negative")
    place = _worth(given / given.sum(), layers)
    table = capacities.mtokens_per_s
    rate = int(np.ceil(float((table * place).max(axis=(1, 2)).sum()))) + 1
    while True:
        worth = float((np.minimum(table, rate) * place).max(axis=(1, 2)).sum())
        # Rounded up past what floating point can lose, so the bound always holds.
        lower = int(worth * (1 + 1e-12) + 1e-3)
        if lower >= rate:
            return rate
        rate = lower


def _worth(prices: Floats, layers: int) -> Floats:
    """[4, L + 1]: the highest price of a range of each length at each kind of place."""
    upto = np.concatenate([[0.0], np.cumsum(prices)])
    best = np.zeros((4, layers + 1))
    for length in range(1, layers + 1):
        windows = upto[length:] - upto[:-length]
        best[FIRST, length], best[LAST, length] = windows[0], windows[-1]
        best[MIDDLE, length] = windows[1:-1].max() if windows.size > 2 else 0.0
    best[WHOLE, layers] = upto[-1]
    return best


def dual_prices(capacities: Capacities, aim: int) -> tuple[int, ...]:
    """Prices that make the bound nearly as low as the cover's linear relaxation allows.

    A small linear program over the prices, the worth of the best window of each length, and the
    worth of each peer; with many peers an even sample of them, each with its most useful lengths.

    Args:
        capacities: The table.
        aim: A bound that is known already; capacities above it are worth no more than it.

    Returns:
        Whole prices, empty (equal prices) where the program finds nothing better.
    """
    layers = capacities.layers
    if not capacities.peers:
        return ()
    rows = np.unique(capacities.kind, return_index=True)[1]
    weight = np.bincount(capacities.kind).astype(np.float64)
    if rows.size > _SAMPLED_PEERS:
        chosen = np.linspace(0, rows.size - 1, _SAMPLED_PEERS).round().astype(np.int64)
        rows, weight = rows[chosen], weight[chosen] * rows.size / chosen.size
    table = np.minimum(capacities.mtokens_per_s[rows], aim) / max(1, aim)
    found = _solve(table, weight, layers)
    if found is None:
        return ()
    prices = tuple(int(p) for p in np.maximum(0, np.round(found * PRICE_UNITS)))
    if sum(prices) <= 0 or upper_bound(capacities, prices) >= upper_bound(capacities):
        return ()
    return prices


def _solve(table: Floats, weight: Floats, layers: int) -> Floats | None:
    """Variables: upto[0..L] (prices summed), window[1..L] (best middle one), worth per peer."""
    from scipy.optimize import linprog  # late: half a second that validation does not need

    count = table.shape[0]
    window_at, worth_at = layers + 1, 2 * layers + 2
    rows, columns, values = _Triplets(), _Triplets(), _Triplets()
    number = 0
    useful = _useful_lengths(table)
    longest = int(np.flatnonzero(useful[:, MIDDLE].any(axis=0)).max(initial=0))
    for length in range(1, longest + 1):
        starts = np.arange(1, layers - length)
        lines = number + np.arange(starts.size)
        rows.add(np.concatenate([lines, lines, lines]))
        columns.add(
            np.concatenate([starts + length, starts, np.full(starts.size, window_at + length)])
        )
        values.add(np.repeat([1.0, -1.0, -1.0], starts.size))
        number += starts.size
    for place in (MIDDLE, FIRST, LAST, WHOLE):
        peers, lengths = np.nonzero(useful[:, place])
        lines = number + np.arange(peers.size)
        rates = table[peers, place, lengths]
        if place == MIDDLE:
            parts = [(window_at + lengths, rates)]
        elif place == FIRST:
            parts = [(lengths, rates)]
        else:
            parts = [(np.full(peers.size, layers), rates), (layers - lengths, -rates)]
        parts.append((worth_at + peers, np.full(peers.size, -1.0)))
        for column, value in parts:
            rows.add(lines)
            columns.add(column)
            values.add(value)
        number += peers.size
    steps = np.arange(layers)
    lines = number + steps  # prices are not negative: upto rises
    rows.add(np.concatenate([lines, lines]))
    columns.add(np.concatenate([steps, steps + 1]))
    values.add(np.repeat([1.0, -1.0], layers))
    number += layers
    size = worth_at + count
    matrix = coo_matrix((values.all(), (rows.all(), columns.all())), shape=(number, size)).tocsr()
    cost = np.concatenate([np.zeros(worth_at), weight])
    limits = (
        [(0.0, 0.0)]
        + [(0.0, 1.0)] * (layers - 1)
        + [(1.0, 1.0)]
        + [(0.0, None)] * (layers + 1 + count)
    )
    answer = linprog(cost, A_ub=matrix, b_ub=np.zeros(number), bounds=limits, method="highs")
    if answer.x is None:
        return None
    prices: Floats = np.diff(answer.x[: layers + 1])
    return prices


class _Triplets:
    """One coordinate of a sparse matrix under construction."""

    def __init__(self) -> None:
        self._parts: list[Floats] = []

    def add(self, part: Floats | Ints) -> None:
        self._parts.append(np.asarray(part, dtype=np.float64))

    def all(self) -> Floats:
        return np.concatenate(self._parts)


def _useful_lengths(table: Floats) -> npt.NDArray[np.bool_]:
    """[peers, 4, L + 1] of truth: per place the few lengths with the most units."""
    units = table * np.arange(table.shape[2])
    keep = min(_LENGTHS_PER_PLACE, units.shape[2])
    order = np.argsort(-units, axis=2, kind="stable")[:, :, :keep]
    useful = np.zeros(table.shape, dtype=bool)
    np.put_along_axis(useful, order, True, axis=2)  # noqa: FBT003
    useful &= table > 0
    return useful
