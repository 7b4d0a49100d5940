"""A layout under repair: what each peer's leaving would cost, and where it would help most.

Aim at a rate t. A layer is short of max(0, t − C_l), weighed by its price; while holes are filled,
a layer without any holder weighs `HOLE` times as much. A move takes one peer from its range to
another and is worth what that fills, less what it uncovers and what it fetches.

Always: the best single move of those looked at is made, never a worse one; what a peer holds
already, and what a newcomer fetches, costs nothing.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import Capacities, Floats, Ints
from helix_p2p.planning.coverage import Layout, coverage
from helix_p2p.planning.recreate import Choices, choices_of, layer_weights
from helix_p2p.planning.replan import ASSUMED_DOWNLINK_BYTES_PER_S

HOLE = 1000.0

MOVE_WEIGHT = 0.3
"""A fetched layer must bring this much more than an average held one."""

LOOKED_AT = 16
"""Peers whose moves are looked at, those first that are missed least where they are; 1 ms."""


class Ground:
    """See the module's description.

    Args:
        snapshot: For bytes and lines.
        capacities: Its table.
        held: What peers hold, and need not fetch.
        bound: No layout carries more.
        prices: What a missing token per second weighs in each layer.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        capacities: Capacities,
        held: Layout,
        bound: int,
        prices: tuple[int, ...],
    ) -> None:
        self._snapshot = snapshot
        self._capacities = capacities
        self._held = held
        self._weights = layer_weights(capacities.layers, prices)
        layers_held = int((held.ends - held.starts).sum())
        self.penalty: float = MOVE_WEIGHT * bound * capacities.layers / max(1, layers_held)
        lengths = np.arange(capacities.layers + 1)
        self._strength: Ints = (np.minimum(capacities.best, bound) * lengths).max(axis=1)
        self._hole = 1.0
        self._at = np.arange(capacities.layers)
        usable = capacities.longest.max(axis=1) > 0
        idle = np.flatnonzero(usable & (held.ends == held.starts))
        self.idle: list[int] = idle[np.argsort(-self._strength[idle], kind="stable")].tolist()
        """Peers that hold nothing and could, strongest first."""
        self.start(held)

    def start(self, layout: Layout, *, filling: bool = False) -> None:
        """Go on from a layout; `filling` puts holes before everything else."""
        self._hole = HOLE if filling else 1.0
        self._starts, self._ends = layout.starts.copy(), layout.ends.copy()
        self._carried = self._capacities.of_layout(self._starts, self._ends)
        self._covered = coverage(self._capacities, layout)

    @property
    def layout(self) -> Layout:
        """As it is now."""
        return Layout(self._starts.copy(), self._ends.copy())

    @property
    def value(self) -> int:
        """Least coverage; 0 while there is a hole."""
        return int(self._covered.min())

    def place(self, rows: Iterable[int], aim: int) -> None:
        """Give peers that hold nothing the range where they fill most."""
        for row in rows:
            choices = self._choices(row)
            gains = self._gains(row, choices, aim)
            if gains.size and (pick := int(gains.argmax())) >= 0 and gains[pick] > 0:
                self._put(row, choices, pick)

    def moves(self, aim: int, most: int, within_s: float | None = None) -> Iterator[None]:
        """Make the best move, again and again, while one is worth it.

        Args:
            aim: Thousandths of a token per second that every layer should have.
            most: So many at most.
            within_s: Only moves that are loaded by then.
        """
        for _ in range(most):
            move = self._best_move(aim, within_s)
            if move is None:
                return
            self._put(*move)
            yield

    def times_s(self, count: int) -> list[float]:
        """So many times, from that in which the fastest loads a layer to what the longest takes."""
        model = self._snapshot.model
        rates = [
            p.downlink_bytes_per_s or ASSUMED_DOWNLINK_BYTES_PER_S for p in self._snapshot.peers
        ]
        shortest = model.layer_bytes / max(rates)
        longest = max(
            model.weight_bytes(model.all_layers) / min(rates),
            shortest,
        )
        return [float(time_s) for time_s in np.geomspace(shortest, longest, count)]

    def _choices(self, row: int) -> Choices:
        return choices_of(self._capacities, row)

    def _best_move(self, aim: int, within_s: float | None) -> tuple[int, Choices, int] | None:
        losses = self._losses(aim)
        rows = np.argsort(losses - self._strength, kind="stable")[:LOOKED_AT].tolist()
        rows += [row for row in self.idle[:LOOKED_AT] if row not in rows]
        best, found = 0.0, None
        for row in rows:
            choices = self._choices(row)
            if not choices.starts.size:
                continue
            gains = self._gains(row, choices, aim) - self.penalty * (
                self._fetched(row, choices.starts, choices.ends) - self._fetched_now(row)
            )
            if within_s is not None:
                late = self._fetch_s(row, choices.starts, choices.ends) > within_s
                gains[late] = -np.inf
            pick = int(gains.argmax())
            worth = float(gains[pick]) - float(losses[row])
            if worth > best * (1 + 1e-9) + 1e-6:
                best, found = worth, (row, choices, pick)
        return found

    def _losses(self, aim: int) -> Floats:
        """[peers]: weighed deficit that there would be without each."""
        holds = (self._at >= self._starts[:, None]) & (self._at < self._ends[:, None])
        slack = self._covered - aim
        without = np.maximum(0, self._carried[:, None] - slack) - np.maximum(0, -slack)
        alone = holds & (self._covered == self._carried[:, None])
        weights = np.where(alone, self._weights * self._hole, self._weights)
        losses: Floats = (np.where(holds, without, 0) * weights).sum(axis=1)
        return losses

    def _gains(self, row: int, choices: Choices, aim: int) -> Floats:
        """Weighed deficit that each range would fill if the peer left its own."""
        covered = self._covered.copy()
        covered[self._starts[row] : self._ends[row]] -= self._carried[row]
        weights = np.where(covered == 0, self._weights * self._hole, self._weights)
        return choices.gains(np.maximum(0, aim - covered), weights)

    def _put(self, row: int, choices: Choices, pick: int) -> None:
        start, end = int(choices.starts[pick]), int(choices.ends[pick])
        carried = int(choices.carried[pick])
        self._covered[self._starts[row] : self._ends[row]] -= self._carried[row]
        self._covered[start:end] += carried
        self._starts[row], self._ends[row], self._carried[row] = start, end, carried

    def _fetched(self, row: int, starts: Ints, ends: Ints) -> Ints:
        """Layers of ranges that the peer does not hold; none for one that holds nothing."""
        low, high = int(self._held.starts[row]), int(self._held.ends[row])
        if high == low:
            return np.zeros(starts.size, dtype=np.int64)
        kept = np.maximum(0, np.minimum(ends, high) - np.maximum(starts, low))
        fetched: Ints = ends - starts - kept
        return fetched

    def _fetched_now(self, row: int) -> int:
        return int(self._fetched(row, self._starts[row : row + 1], self._ends[row : row + 1])[0])

    def _fetch_s(self, row: int, starts: Ints, ends: Ints) -> Floats:
        """Seconds until a peer has loaded each of some ranges."""
        model, profile = self._snapshot.model, self._snapshot.peers[row]
        low, high = int(self._held.starts[row]), int(self._held.ends[row])
        kept = np.maximum(0, np.minimum(ends, high) - np.maximum(starts, low))
        size = (ends - starts - kept) * float(model.layer_bytes)
        if high == low or low > 0:
            size = size + np.where(starts == 0, model.embedding_bytes, 0)
        if high < model.layers:
            size = size + np.where(ends == model.layers, model.head_bytes, 0)
        seconds: Floats = size / (profile.downlink_bytes_per_s or ASSUMED_DOWNLINK_BYTES_PER_S)
        return seconds
