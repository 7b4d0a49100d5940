"""Decode steps recorded once per shape and replayed: small kernels cost more to launch than to run.

A batch is padded up to the next size of `BATCHES`, its keys to the next power of two of blocks, its
inputs are copied to where the recording read them, and the recording is replayed. On CUDA and ROCm
a recording is a graph of the device; the tests call the work again, which has the same effect
anywhere. Always: a replay computes what the step
would have; a span that cannot be recorded (experts that ask the host which rows are theirs, for
instance) is tried once and then runs as it is; recordings go when the arena or the layers do.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from helix_p2p.engine.attention import PackedAttention, Row
from helix_p2p.engine.kv_paged import PagedKvPool
from helix_p2p.engine.memory import is_out_of_memory
from helix_p2p.engine.padded import PaddedRows
from helix_p2p.engine.spans import Span
from helix_p2p.routing.admission import BLOCK_TOKENS

log = logging.getLogger(__name__)

BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64)
MOST_RECORDINGS = 64
"""Each holds its own intermediate results; the pool of memory is shared."""

Replay = Callable[[], None]


class Recorder(Protocol):
    """Records work that reads and writes the same memory each time."""

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[Replay, torch.Tensor]:
        """Do the work; give what does it again, and where its result is after each time."""


class CudaRecorder:
    """CUDA graphs, and ROCm's."""

    def __init__(self) -> None:
        self._memory: Any = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[Replay, torch.Tensor]:
        """Warm up on a stream of its own, as libraries set themselves up there, then capture."""
        cuda: Any = torch.cuda
        beside = cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            work()
        torch.cuda.current_stream().wait_stream(beside)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            result = work()
        graph.replay()
        return graph.replay, result


def recorder_for(device: torch.device) -> Recorder | None:
    """What can record on this device, None where nothing can."""
    return CudaRecorder() if device.type == "cuda" else None


@dataclass(frozen=True, slots=True)
class _Recording:
    padded: PaddedRows
    given: torch.Tensor
    replay: Replay
    result: torch.Tensor
    kept: object


class DecodeGraphs:
    """Recordings of one engine, by span and shape.

    Args:
        pool: Where the caches lie.
        attention: Of the engine.
        recorder: Records.
    """

    def __init__(self, pool: PagedKvPool, attention: PackedAttention, recorder: Recorder) -> None:
        self._pool = pool
        self._attention = attention
        self._recorder = recorder
        self._recordings: dict[tuple[int, int, int], _Recording] = {}
        self._spans: dict[int, Span] = {}
        self._unfit: set[int] = set()
        self._moved = pool.moved
        self.replays = 0

    def forget(self) -> None:
        """Drop every recording."""
        self._recordings.clear()
        self._spans.clear()
        self._unfit.clear()

    def run(
        self,
        span: Span,
        rows: Sequence[Row],
        ids: torch.Tensor | None,
        states: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """`[N, d_model]` for rows of one token each; None where this cannot be recorded."""
        if self._moved != self._pool.moved:
            self.forget()
            self._moved = self._pool.moved
        given = ids if states is None else states
        assert given is not None
        batch = next((size for size in BATCHES if size >= len(rows)), None)
        if batch is None or id(span) in self._unfit:
            return None
        longest = max(row.position for row in rows) + 1
        blocks = 1 << (-(-longest // BLOCK_TOKENS) - 1).bit_length()
        padded = PaddedRows(self._pool, rows, batch=batch, blocks=blocks)
        key = (id(span), batch, blocks)
        known = self._recordings.get(key)
        if known is None:
            known = self._record(key, span, padded, given)
            if known is None:
                return None
        else:
            for old, new in zip(known.padded.tensors(), padded.tensors(), strict=True):
                old.copy_(new)
            known.given[:, : len(rows)].copy_(given)
            known.replay()
            self.replays += 1
        return known.result[: len(rows)].clone()

    def _record(
        self, key: tuple[int, int, int], span: Span, padded: PaddedRows, given: torch.Tensor
    ) -> _Recording | None:
        shape = (1, padded.batch, *given.shape[2:])
        held = torch.zeros(shape, dtype=given.dtype, device=given.device)
        held[:, : given.shape[1]] = given
        takes_ids = not given.is_floating_point()
        highest = padded.blocks * BLOCK_TOKENS - 1

        def work() -> torch.Tensor:
            padded.forget_masks()
            self._attention.begin_padded(padded, highest)
            try:
                return span.run(
                    tokens=held if takes_ids else None,
                    hidden=None if takes_ids else held,
                    positions=padded.positions[None],
                    cache=self._attention,
                    mask=None,
                )[0]
            finally:
                self._attention.end()

        if len(self._recordings) >= MOST_RECORDINGS:
            self.forget()
        try:
            replay, result = self._recorder.record(work)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            log.info("layers cannot be recorded and run as they are: %s", error)
            self._unfit.add(id(span))
            self._spans[id(span)] = span
            return None
        self._spans[id(span)] = span  # so that no other one gets its id
        made = _Recording(padded, held, replay, result, span.constants())
        self._recordings[key] = made
        return made
