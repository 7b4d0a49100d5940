"""What clients ask for: token counts and arrival times, drawn from a public trace.

Source: Azure LLM inference trace 2023, conversations (see `reference_data/README.md`); the way of
drawing is the Helix artifact's, so that with seed 0 its requests come out one by one.

Always: everything is drawn from the passed `Random`, in one fixed order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random

SPAN_S = 3
"""The trace counts arrivals per three seconds."""


@dataclass(frozen=True, slots=True)
class Length:
    """One request's tokens."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of an open-loop feed."""

    at_s: float
    length: Length


def draw_length(rng: Random) -> Length:
    """A request of the trace, all alike likely."""
    lengths = trace_lengths()
    return lengths[rng.randint(0, len(lengths) - 1)]


def draw_running_length(rng: Random) -> Length:
    """A request as one meets it at some moment: those with long answers are met more often."""
    most = longest_answer_tokens()
    while True:
        length = draw_length(rng)
        if rng.randrange(most) < length.output_tokens:
            return length


def trace_arrivals(
    rng: Random, tokens_per_s: float, start_s: float, duration_s: float
) -> Iterator[Arrival]:
    """Arrivals as bursty as the trace's, at a mean rate.

    Args:
        rng: Of the draw.
        tokens_per_s: Mean of input and output tokens asked for per second.
        start_s: Of the first span.
        duration_s: Whole spans of three seconds are drawn.
    """
    counts, lengths = _trace_counts(), trace_lengths()
    mean_tokens = sum(n.input_tokens + n.output_tokens for n in lengths) / len(lengths)
    scale = SPAN_S * tokens_per_s / mean_tokens / (sum(counts) / len(counts))
    owed = 0.0
    for span in range(int(duration_s // SPAN_S)):
        wanted = scale * counts[rng.randint(0, len(counts) - 1)] + owed
        count = round(wanted)
        owed = wanted - count
        times = sorted(start_s + span * SPAN_S + SPAN_S * rng.random() for _ in range(count))
        yield from [Arrival(at_s, draw_length(rng)) for at_s in times]


def poisson_arrivals(
    rng: Random, tokens_per_s: float, start_s: float, duration_s: float
) -> Iterator[Arrival]:
    """Memoryless arrivals of the trace's requests at a mean rate; arguments as above."""
    lengths = trace_lengths()
    mean_tokens = sum(n.input_tokens + n.output_tokens for n in lengths) / len(lengths)
    at_s = start_s + rng.expovariate(tokens_per_s / mean_tokens)
    while at_s < start_s + duration_s:
        yield Arrival(at_s, draw_length(rng))
        at_s += rng.expovariate(tokens_per_s / mean_tokens)


@cache
def trace_lengths() -> tuple[Length, ...]:
    """The trace's 16,657 requests."""
    rows = (row.split(",") for row in _rows("trace_lengths.csv"))
    return tuple(Length(int(into), int(out)) for into, out in rows)


@cache
def longest_answer_tokens() -> int:
    """Of the trace."""
    return max(length.output_tokens for length in trace_lengths())


@cache
def _trace_counts() -> tuple[int, ...]:
    return tuple(int(row) for row in _rows("trace_arrivals.csv"))


def _rows(name: str) -> list[str]:
    text = files("helix_p2p.sim").joinpath("reference_data", name).read_text(encoding="utf-8")
    return text.split()[1:]
