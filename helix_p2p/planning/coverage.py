"""Coverage: the value of a placement without building a single edge.

Theorem. With partial inference and no binding pairwise link, the max flow through a placement is
min over layers l of C_l, the sum of the capacities of the peers that hold l. A peer is an arc from
its start to its end on the line 0..L; partial inference is a free arc backwards; so the finite cuts
are the prefixes of the line, and the prefix that ends in layer l costs C_l.

Always: a `Layout` is a placement as arrays; an empty range (start == end == 0) holds nothing.
Source: own; `tests/property/test_coverage.py` checks it against networkx.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from helix_p2p.cluster.model import ModelSpec
from helix_p2p.errors import SwarmTooSmall
from helix_p2p.planning.capacity import FIRST, LAST, MIDDLE, WHOLE, Capacities, Ints
from helix_p2p.planning.plan import Assignment
from helix_p2p.types import LayerRange


@dataclass(frozen=True)
class Layout:
    """A placement as arrays, rows as in `Capacities`.

    Attributes:
        starts: [peers] first layer of each range.
        ends: [peers] layer after the last; equal to the start for a peer that holds nothing.
    """

    starts: Ints
    ends: Ints

    def assignments(self, capacities: Capacities) -> tuple[Assignment, ...]:
        """As the plan states it, ascending by peer."""
        return tuple(
            Assignment(peer, LayerRange(int(start), int(end)))
            for peer, start, end in zip(capacities.peers, self.starts, self.ends, strict=True)
            if end > start
        )


def layout_of(capacities: Capacities, assignments: Iterable[Assignment]) -> Layout:
    """The arrays of a placement; assignments of unknown peers are left out."""
    starts = np.zeros(len(capacities.peers), dtype=np.int64)
    ends = np.zeros(len(capacities.peers), dtype=np.int64)
    for assignment in assignments:
        row = capacities.index.get(assignment.peer)
        if row is not None:
            starts[row] = assignment.layers.start
            ends[row] = assignment.layers.end
    return Layout(starts, ends)


def coverage(capacities: Capacities, layout: Layout) -> Ints:
    """[L]: C_l, thousandths of a token per second that the holders of each layer carry together."""
    steps = np.zeros(capacities.layers + 1, dtype=np.int64)
    carried = capacities.of_layout(layout.starts, layout.ends)
    np.add.at(steps, layout.starts, carried)
    np.subtract.at(steps, layout.ends, carried)
    return np.cumsum(steps[:-1])


def value_of(capacities: Capacities, layout: Layout) -> int:
    """Max flow of a layout where no pairwise link binds."""
    return int(coverage(capacities, layout).min())


def some_cover(model: ModelSpec, capacities: Capacities) -> Layout:
    """A layout that covers every layer, whatever its value; exact: it fails only if none exists.

    Only the ends are special, so a cover exists exactly if one peer fits the whole model, or some
    first and last peer and all others at their longest reach L.

    Raises:
        SwarmTooSmall: No placement of these peers covers the model.
    """
    layers, longest = capacities.layers, capacities.longest
    count = len(capacities.peers)
    starts, ends = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    whole = np.flatnonzero(longest[:, WHOLE])
    if whole.size:
        ends[whole[np.argmax(capacities.mtokens_per_s[whole, WHOLE, layers])]] = layers
        return Layout(starts, ends)
    usable = int((longest.max(axis=1) > 0).sum()) if count else 0
    pair, reach = _best_ends(longest)
    if pair is None or reach < layers:
        held = min(reach, layers - 1)
        ends_bytes = model.embedding_bytes + model.head_bytes if pair is None else 0
        missing = (layers - held) * model.layer_bytes + ends_bytes
        raise SwarmTooSmall(missing_bytes=missing, usable_peers=usable, total_peers=count)
    first, last = pair
    middle = [int(row) for row in np.argsort(-longest[:, MIDDLE], kind="stable")]
    at = ends[first] = min(int(longest[first, FIRST]), layers - 1)
    # The last peer takes what is left at the end, the others fill up to it.
    until = max(at, layers - int(longest[last, LAST]))
    for row in middle:
        if at >= until or row in (first, last):
            continue
        starts[row], at = at, min(at + int(longest[row, MIDDLE]), until)
        ends[row] = at
    starts[last], ends[last] = at, layers
    return _mended(capacities, Layout(starts, ends))


def _best_ends(longest: Ints) -> tuple[tuple[int, int] | None, int]:
    """The first and last peer with which the swarm reaches furthest, and how far that is."""
    total = int(longest[:, MIDDLE].sum()) if len(longest) else 0
    best: tuple[int, int] | None = None
    reach = 0
    # Only the few with the most to give at an end can be best; three each leave room for overlap.
    for first in _top(longest[:, FIRST] - longest[:, MIDDLE], longest[:, FIRST]):
        for last in _top(longest[:, LAST] - longest[:, MIDDLE], longest[:, LAST]):
            if first == last:
                continue
            together = total - int(longest[first, MIDDLE] + longest[last, MIDDLE])
            together += int(longest[first, FIRST] + longest[last, LAST])
            if best is None or together > reach:
                best, reach = (first, last), together
    return best, reach if best else total


def _top(score: Ints, fits: Ints) -> list[int]:
    rows = [int(row) for row in np.argsort(-score, kind="stable") if fits[row] > 0]
    return rows[:3]


def _mended(capacities: Capacities, layout: Layout) -> Layout:
    """Lengths between 1 and the longest always fit; say so loudly if a profile breaks that."""
    if value_of(capacities, layout) <= 0:
        raise SwarmTooSmall("no placement was found that covers every layer")
    return layout
