"""What a replay gave: throughput and latency in the window, traffic over links, KV over time.

Always: figures count what ended inside the window, as the artifact does; a percentile is the sorted
list's entry at that share.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from helix_p2p.types import PeerId

PERCENTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Sample:
    """The swarm at one moment.

    Attributes:
        at_s: Since requests began.
        running: Queries admitted and not finished.
        waiting: Queries that wait for admission.
        kv_share: Fullest stage's used share of KV.
        mean_kv_share: Over all stages.
    """

    at_s: float
    running: int
    waiting: int
    kv_share: float
    mean_kv_share: float


@dataclass(frozen=True, slots=True)
class EdgeLoad:
    """Planned and measured tokens per second over one way; None is the client side."""

    source: PeerId | None
    target: PeerId | None
    flow_tokens_per_s: float
    measured_tokens_per_s: float


@dataclass(slots=True)
class Figures:
    """Of one replay.

    Attributes:
        window_s: Length of the window.
        prompt_s: Latency of each prompt that ended in it.
        decode_s: Latency of each token that came in it.
        finished: Queries finished from first to last.
        dropped: Offline: queries that fitted nowhere and were dropped, as the artifact does.
        refused: Online: queries that found the waiting queue full.
        longest_queue: Most queries that waited at once.
        kv_peak_share: By stage, the fullest it ever was; above 1 the artifact would have stopped.
        edges: Traffic over every way.
        samples: Over time.
        events: Handled.
        end_s: Virtual time reached.
    """

    window_s: float
    prompt_s: "array[float]" = field(default_factory=lambda: array("d"))
    decode_s: "array[float]" = field(default_factory=lambda: array("d"))
    finished: int = 0
    dropped: int = 0
    refused: int = 0
    longest_queue: int = 0
    kv_peak_share: dict[PeerId, float] = field(default_factory=dict)
    edges: tuple[EdgeLoad, ...] = ()
    samples: list[Sample] = field(default_factory=list)
    events: int = 0
    end_s: float = 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens served per second of the window."""
        return len(self.decode_s) / self.window_s

    @property
    def mean_prompt_s(self) -> float:
        """Mean latency of a prompt; nan where none ended."""
        return mean(self.prompt_s)

    @property
    def mean_decode_s(self) -> float:
        """Mean latency of a token; nan where none came."""
        return mean(self.decode_s)

    def trace_hash(self) -> str:
        """Of everything that ended, in order: equal runs have equal hashes."""
        digest = hashlib.sha256()
        for values in (self.prompt_s, self.decode_s):
            digest.update(values.tobytes())
        digest.update(f"{self.events} {self.finished} {self.dropped} {self.refused}".encode())
        return digest.hexdigest()


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; nan of nothing."""
    return sum(values) / len(values) if values else float("nan")


def percentiles(values: Sequence[float]) -> tuple[float, ...]:
    """The five that the artifact prints; nan of nothing."""
    if not values:
        return (float("nan"),) * len(PERCENTILES)
    ordered = sorted(values)
    return tuple(ordered[int(len(ordered) * share)] for share in PERCENTILES)
