"""A traced answer in a table: medians of each part of a token's time, and whether they add up.

Always: only tokens with every part count, so a first token or a repair in between distorts nothing;
the time between tokens is the client's own, measured by nobody else.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from helix_p2p.session.messages import TokenTrace


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """Medians over an answer's tokens.

    Attributes:
        tokens: How many counted.
        parts: Names and seconds, in the order of a token's way.
        sum_s: Of all parts of a token.
        between_s: Between two tokens at the client.
        hop_s: Network and framing of one hop.
        explained: Sum of all parts over the time between tokens, of all tokens together.
    """

    tokens: int
    parts: tuple[tuple[str, float], ...]
    sum_s: float
    between_s: float
    hop_s: float
    explained: float


def summarise(traces: Sequence[tuple[float, TokenTrace]]) -> TraceSummary | None:
    """What an answer's traces say; None when there are fewer than two.

    Args:
        traces: Of one stream, each with when its token came.
    """
    if len(traces) < 2:
        return None
    stages = len(traces[-1][1].spans)
    whole = [
        (late_s - early_s, trace, trace.entry_s)
        for (early_s, _), (late_s, trace) in pairwise(traces)
        if trace.entry_s is not None and len(trace.spans) == stages
    ]
    if not whole:
        return None
    columns: dict[str, list[float]] = {"entry: next frame": [s for _, _, s in whole]}
    hands = [sum(span.hand_s for span in trace.spans) for _, trace, _ in whole]
    for index in range(stages):
        spans = [trace.spans[index] for _, trace, _ in whole]
        columns[f"stage {index + 1}: queue"] = [span.queue_s for span in spans]
        columns[f"stage {index + 1}: compute"] = [span.compute_s for span in spans]
        columns[f"stage {index + 1}: hand over"] = [span.hand_s for span in spans]
    columns["network, all hops"] = [trace.wire_s for _, trace, _ in whole]
    sums = [sum(parts) for parts in zip(*columns.values(), strict=True)]
    wires = columns["network, all hops"]
    hops = [(wire + hand) / stages for wire, hand in zip(wires, hands, strict=True)]
    between = [gap for gap, _, _ in whole]
    return TraceSummary(
        tokens=len(whole),
        parts=tuple((name, statistics.median(values)) for name, values in columns.items()),
        sum_s=statistics.median(sums),
        between_s=statistics.median(between),
        hop_s=statistics.median(hops),
        explained=sum(sums) / sum(between),
    )


def lines(summary: TraceSummary) -> list[str]:
    """The summary for people."""
    parts = [f"{name:<22} {seconds * 1e3:8.2f} ms" for name, seconds in summary.parts]
    return [
        f"where the time of {summary.tokens} tokens went, medians",
        *parts,
        f"{'sum':<22} {summary.sum_s * 1e3:8.2f} ms",
        f"{'between tokens, here':<22} {summary.between_s * 1e3:8.2f} ms",
        f"{'network, framing a hop':<22} {summary.hop_s * 1e3:8.2f} ms",
        f"parts explain {summary.explained:.1%} of the time between tokens",
    ]
