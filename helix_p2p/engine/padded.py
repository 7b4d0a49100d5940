"""One step's rows over a paged cache, as indices: made once a step, used by every layer.

Queries of all rows are padded to the longest, keys to the longest cache, and one mask says who sees
what; no layer loops over rows. Always: a padding row or query reads and writes block 0 only, sees
one position of it, and is left out of what is returned.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from helix_p2p.engine.kv_paged import PagedKv, PagedKvPool
from helix_p2p.routing.admission import BLOCK_TOKENS


class PaddedRows:
    """Where each row's queries and keys are.

    Attributes:
        pool: Holds the caches.
        positions: `[N]`, absolute, of the packed tokens.
        slots: `[layers, N]`, where each token's key and value go in the arena.
        tables: `[layers, B × blocks]`, each row's blocks, padded with block 0.
        queries: `[B × Q]`, the packed token of each padded query.
        places: `[N]`, the padded query of each packed token.
        seen_from: `[B, Q]`, the position of each padded query.
    """

    def __init__(
        self, pool: PagedKvPool, rows: Sequence[Any], *, batch: int = 0, blocks: int = 0
    ) -> None:
        """Work the indices out.

        Args:
            pool: Holds the caches.
            rows: `attention.Row`s over `PagedKv`s of the same layers.
            batch: Pad to so many rows, each of one token, when that is more.
            blocks: Pad the keys to so many blocks, when that is more.
        """
        kvs: list[PagedKv] = [row.kv for row in rows]
        self.pool = pool
        self.first = kvs[0].layers.start
        layers = len(kvs[0].layers)
        longest = max(row.position + row.tokens for row in rows)
        self.blocks = max(blocks, -(-longest // BLOCK_TOKENS))
        padding = max(0, batch - len(rows))
        self.batch = len(rows) + padding
        self.width = max(row.tokens for row in rows)
        count = sum(row.tokens for row in rows)
        tables = np.zeros((layers, self.batch, self.blocks), np.int64)
        positions = np.zeros(count + padding, np.int64)
        slots = np.zeros((layers, count + padding), np.int64)
        queries = np.zeros((self.batch, self.width), np.int64)
        places = np.zeros(count + padding, np.int64)
        seen_from = np.zeros((self.batch, self.width), np.int64)
        for number, (row, kv) in enumerate(zip(rows, kvs, strict=True)):
            held = kv.blocks[:, : self.blocks]
            tables[:, number, : held.shape[1]] = held
            own = np.arange(row.position, row.position + row.tokens)
            part = slice(row.offset, row.offset + row.tokens)
            positions[part] = own
            slots[:, part] = kv.blocks[:, own // BLOCK_TOKENS] * BLOCK_TOKENS + own % BLOCK_TOKENS
            queries[number, : row.tokens] = np.arange(part.start, part.stop)
            places[part] = number * self.width + np.arange(row.tokens)
            seen_from[number, : row.tokens] = own
        places[count:] = np.arange(len(rows), self.batch) * self.width
        self.highest = int(positions.max())
        arrays = (positions, slots, tables.reshape(layers, -1), queries.reshape(-1), places)
        moved = [torch.from_numpy(array).to(pool.device) for array in (*arrays, seen_from)]
        self.positions, self.slots, self.tables, self.queries, self.places, self.seen_from = moved
        self._masks: dict[int | None, torch.Tensor] = {}

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Everything that differs between two steps of the same shape."""
        return (
            self.positions,
            self.slots,
            self.tables,
            self.queries,
            self.places,
            self.seen_from,
        )

    def forget_masks(self) -> None:
        """The indices have other values now."""
        self._masks.clear()

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put `[1, heads, N, dim]` keys and values where their sessions keep them."""
        slots = self.slots[layer - self.first]
        for arena, new in ((self.pool.keys, keys), (self.pool.values, values)):
            arena.view(-1, *arena.shape[2:]).index_copy_(0, slots, new[0].transpose(0, 1))

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Every row's keys and values, `[B, heads, T, dim]`."""
        table = self.tables[layer - self.first]
        keys, values = (
            arena.index_select(0, table).view(self.batch, -1, *arena.shape[2:]).transpose(1, 2)
            for arena in (self.pool.keys, self.pool.values)
        )
        return keys, values

    def mask(self, window: int | None) -> torch.Tensor:
        """`[B, 1, Q, T]`, True where a query may look."""
        known = self._masks.get(window)
        if known is None:
            keys = torch.arange(self.blocks * BLOCK_TOKENS, device=self.pool.device)
            from_ = self.seen_from[:, :, None]
            known = keys <= from_
            if window:
                known = known & (keys > from_ - window)
            known = self._masks[window] = known[:, None]
        return known

    def spread(self, packed: torch.Tensor) -> torch.Tensor:
        """`[1, heads, N, dim]` of packed queries to `[B, heads, Q, dim]`."""
        rows = packed[0].transpose(0, 1).index_select(0, self.queries)
        return rows.view(self.batch, self.width, *rows.shape[1:]).transpose(1, 2)

    def gather(self, padded: torch.Tensor) -> torch.Tensor:
        """`[B, heads, Q, dim]` back to `[1, N, heads, dim]`."""
        rows = padded.transpose(1, 2).reshape(-1, padded.shape[1], padded.shape[3])
        return rows.index_select(0, self.places)[None]
