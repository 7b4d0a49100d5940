"""A proven upper bound on the flow of any placement, in milliseconds.

If a placement carries t, every layer is covered t times over, which takes t·L units of "layers
times tokens per second". A peer with k layers gives at most k·min(T'_i(k), t) useful units. So
t·L ≤ Σ_i max_k k·min(T'_i(k), t), and the largest t that satisfies it bounds every placement. The
right side falls with t more slowly than the left, so iterating from above ends at that t.

Always: rechecked by anyone from the capacities alone; links can only lower the true optimum.
"""

import numpy as np

from helix_p2p.planning.capacity import Capacities, Ints


def upper_bound(capacities: Capacities) -> int:
    """Thousandths of a token per second that no placement exceeds."""
    if not capacities.peers:
        return 0
    lengths = np.arange(capacities.layers + 1, dtype=np.int64)
    rate = int(useful_units(capacities.best, lengths, None).sum()) // capacities.layers
    while True:
        lower = int(useful_units(capacities.best, lengths, rate).sum()) // capacities.layers
        if lower >= rate:
            return rate
        rate = lower


def useful_units(best: Ints, lengths: Ints, rate: int | None) -> Ints:
    """[peers]: max over k of k·min(capacity at k, rate)."""
    capped = best if rate is None else np.minimum(best, rate)
    units: Ints = (capped * lengths).max(axis=1)
    return units
