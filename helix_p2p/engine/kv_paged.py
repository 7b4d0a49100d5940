"""The KV pool for GPUs: every session's cache in blocks of one arena, reached by index.

On a GPU a loop over rows launches a kernel for each of them, so all rows of a step are written by
one indexed copy and read by one gather of blocks a layer (vLLM's paged cache, Kwon et al., SOSP
2023, without its kernel: any device's own attention then works on the padded rows). A block holds
16 positions of one layer. Always: block 0 belongs to nobody: what pads a batch writes there; the
arena grows as sessions need it, never beyond the capacity, and goes when the last session does.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from helix_p2p.engine.kv import KvPool, SessionKv
from helix_p2p.routing.admission import BLOCK_TOKENS
from helix_p2p.types import LayerRange, SessionId


@dataclass(slots=True)
class PagedKv(SessionKv):
    """One session's cache.

    Attributes:
        blocks: `[layers, tokens / BLOCK_TOKENS]`, which blocks of the arena it has, int64.
    """

    blocks: np.ndarray[tuple[int, int], np.dtype[np.int64]] = field(
        default_factory=lambda: np.zeros((0, 0), np.int64)
    )


@dataclass(slots=True)
class PagedKvPool(KvPool):
    """Counts as `KvPool`, stores in blocks.

    Attributes:
        keys: `[blocks, BLOCK_TOKENS, heads, key_dim]`.
        values: `[blocks, BLOCK_TOKENS, heads, value_dim]`.
        moved: Rises when the arena is another one: what remembers its address must forget it.
    """

    keys: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    values: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    moved: int = 0
    _free: list[int] = field(default_factory=list)

    def _remove(self, session: SessionId) -> SessionKv | None:
        held = KvPool._remove(self, session)  # noqa: SLF001 - slots forbid a bare super()
        if isinstance(held, PagedKv):
            self._free.extend(held.blocks.reshape(-1).tolist())
        return held

    def _emptied(self) -> None:
        if len(self.keys):
            self._hold(torch.empty(0), torch.empty(0))
            self._free = []

    def _allocate(self, layers: LayerRange, tokens: int) -> PagedKv:
        count = len(layers) * tokens // BLOCK_TOKENS
        if len(self._free) < count:
            self._grow(count - len(self._free))
        taken, self._free = self._free[-count:], self._free[:-count]
        blocks = np.array(taken, np.int64).reshape(len(layers), -1)
        return PagedKv(layers, tokens, 0, {}, {}, blocks)

    def _grow(self, missing: int) -> None:
        """A larger arena with what the old one holds: twice as large, within the capacity."""
        have = len(self.keys)
        most = 1 + self.capacity_token_layers // BLOCK_TOKENS
        want = max(have + missing + (have == 0), min(most, 2 * have))
        shape = self.geometry
        made = [
            torch.zeros(
                (want, BLOCK_TOKENS, shape.heads, dim), dtype=shape.dtype, device=self.device
            )
            for dim in (shape.key_dim, shape.value_dim)
        ]
        if have:
            made[0][:have] = self.keys
            made[1][:have] = self.values
        self._hold(*made)
        self._free.extend(range(max(1, have), want))

    def _hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self.moved += 1

    def _copy(self, source: SessionKv, target: SessionKv, positions: int) -> None:
        assert isinstance(source, PagedKv)
        assert isinstance(target, PagedKv)
        count = -(-positions // BLOCK_TOKENS)
        here, there = (
            torch.from_numpy(kv.blocks[:, :count].reshape(-1).copy()).to(self.device)
            for kv in (source, target)
        )
        for arena in (self.keys, self.values):
            arena.index_copy_(0, there, arena.index_select(0, here))
        target.length = positions
