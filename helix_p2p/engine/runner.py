"""One pass of a span over packed rows: positions, masks, the cache, and nothing about sessions.

The engine and the speed profile run layers through here, so what is measured is what serves. On a
CPU rows are attended to one by one, on views; elsewhere all at once, padded, over a paged cache
(padded.py), and decode steps may be recorded once per shape and replayed (graphs.py). Always: rows
lie one after another in the order given; architectures whose attention cannot be replaced run row
by row.
"""

from collections.abc import Sequence
from enum import StrEnum

import torch

from helix_p2p.engine.architecture import Architecture
from helix_p2p.engine.attention import PackedAttention, Row
from helix_p2p.engine.graphs import DecodeGraphs, Recorder
from helix_p2p.engine.kv import KvGeometry, KvPool
from helix_p2p.engine.kv_paged import PagedKvPool
from helix_p2p.engine.padded import PaddedRows
from helix_p2p.engine.spans import Span


class Rows(StrEnum):
    """How a step's rows are attended to."""

    AUTO = "auto"
    ONE_BY_ONE = "one_by_one"
    PADDED = "padded"


class Runner:
    """Runs spans of one model on one device.

    Args:
        architecture: Of the model.
        geometry: Of its KV cache.
        device: Where layers and caches lie.
        rows: How rows are attended to; by itself one by one on a CPU, padded elsewhere.
        recorder: Records decode steps; None runs them as they are.
    """

    def __init__(
        self,
        architecture: Architecture,
        geometry: KvGeometry,
        device: torch.device,
        rows: Rows = Rows.AUTO,
        recorder: Recorder | None = None,
    ) -> None:
        self._device = device
        self._attention = PackedAttention(
            stock=None if architecture.packed else "eager", latent=architecture.latent
        )
        if rows is Rows.AUTO:
            rows = Rows.ONE_BY_ONE if device.type == "cpu" else Rows.PADDED
        self._graphs: DecodeGraphs | None = None
        self.pool: KvPool
        if rows is Rows.PADDED and architecture.packed:
            paged = self.pool = PagedKvPool(geometry, device)
            if recorder is not None:
                self._graphs = DecodeGraphs(paged, self._attention, recorder)
        else:
            self.pool = KvPool(geometry, device)

    @property
    def attention_name(self) -> str:
        """What the layers must be told to use."""
        return self._attention.name

    def forget(self) -> None:
        """Layers come or go: nothing of the old spans is kept."""
        if self._graphs is not None:
            self._graphs.forget()

    def run(
        self,
        span: Span,
        rows: Sequence[Row],
        ids: torch.Tensor | None,
        states: torch.Tensor | None,
    ) -> torch.Tensor:
        """One forward.

        Args:
            span: Which layers.
            rows: At least one, over caches of `pool`.
            ids: `[1, N]` token ids, for a span that starts at 0.
            states: `[1, N, d_model]` otherwise.

        Returns:
            `[N, d_model]` for all rows.
        """
        if isinstance(self.pool, PagedKvPool):
            return self._run_padded(self.pool, span, rows, ids, states)
        if not self._attention.packed and len(rows) > 1:
            parts = []
            for row in rows:
                part = slice(row.offset, row.offset + row.tokens)
                ids_part = None if ids is None else ids[:, part]
                states_part = None if states is None else states[:, part]
                parts.append(self.run(span, [row._replace(offset=0)], ids_part, states_part))
            return torch.cat(parts)
        numbers = [p for row in rows for p in range(row.position, row.position + row.tokens)]
        positions = torch.tensor(numbers, dtype=torch.long, device=self._device)[None]
        mask = None
        if not self._attention.packed:
            mask = torch.ones(1, numbers[-1] + 1, dtype=torch.long, device=self._device)
        self._attention.begin(rows)
        try:
            cache = self._attention
            out = span.run(tokens=ids, hidden=states, positions=positions, cache=cache, mask=mask)
        finally:
            self._attention.end()
        return out[0]

    def _run_padded(
        self,
        pool: PagedKvPool,
        span: Span,
        rows: Sequence[Row],
        ids: torch.Tensor | None,
        states: torch.Tensor | None,
    ) -> torch.Tensor:
        if self._graphs is not None and all(row.tokens == 1 for row in rows):
            replayed = self._graphs.run(span, rows, ids, states)
            if replayed is not None:
                return replayed
        padded = PaddedRows(pool, rows)
        self._attention.begin_padded(padded, padded.highest)
        try:
            out = span.run(
                tokens=ids,
                hidden=states,
                positions=padded.positions[None],
                cache=self._attention,
                mask=None,
            )
        finally:
            self._attention.end()
        return out[0]
