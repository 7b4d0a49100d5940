"""Attention over a packed batch: many sessions' tokens side by side, each looking at its own cache.

A step's rows lie one after another in one sequence of N tokens, so every matrix product of a layer
runs once for all of them, whatever their positions and lengths. transformers' own layers do that
when they are given (a) explicit positions, (b) a `Cache` whose `update` puts each row's keys where
its session keeps them, and (c) an attention function, registered under a name of our own, that
attends row by row; without a mask function of that name transformers makes no masks. The idea is
vLLM's transformers backend. Always: a row sees its session's positions up to its own and nothing
else. Caches in blocks (kv_paged.py) are attended to all rows at once, padded. Architectures without
that seam (bloom, falcon) run row by row with stock attention on the
views that `update` returns.
"""

import itertools
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from helix_p2p.engine.kv import SessionKv
from helix_p2p.engine.padded import PaddedRows

_numbers = itertools.count()


class Row(NamedTuple):
    """One session's part of a packed batch: its tokens' place in it, the first one's position."""

    kv: SessionKv
    position: int
    tokens: int
    offset: int


class PackedAttention(Cache):
    """The cache and the attention function of one engine; good for one step at a time.

    Attributes:
        name: What transformers calls the attention function; unique in the process.
        highest: No position of the step is higher; known without asking the device.
    """

    def __init__(self, *, stock: str | None = None, latent: bool = False) -> None:
        """Make it known to transformers.

        Args:
            stock: Name of transformers' own attention for architectures without the seam.
            latent: The layers expand what the cache returns (MLA), so they must get all of it.
        """
        super().__init__(layers=[])
        self.packed = stock is None
        self._latent = latent
        self.name = stock or f"helix_packed_{next(_numbers)}"
        self._rows: Sequence[Row] = ()
        self._padded: PaddedRows | None = None
        self._layer = 0
        self.highest = 0
        if self.packed:
            me = weakref.ref(self)

            def attend(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
                alive = me()
                assert alive is not None, "the engine is gone"
                return alive.attend(*args, **kwargs)

            ALL_ATTENTION_FUNCTIONS.register(self.name, attend)
            weakref.finalize(self, ALL_ATTENTION_FUNCTIONS._global_mapping.pop, self.name, None)  # noqa: SLF001

    def begin(self, rows: Sequence[Row]) -> None:
        """Set the rows of the step that follows."""
        assert self.packed or len(rows) == 1
        self._rows = rows
        self.highest = max(row.position + row.tokens for row in rows) - 1

    def begin_padded(self, padded: PaddedRows, highest: int) -> None:
        """Set the rows of a step over a paged cache.

        Args:
            padded: The rows.
            highest: At least their highest position.
        """
        assert self.packed
        self._padded = padded
        self.highest = highest

    def end(self) -> None:
        """Forget the rows, and with them the sessions' memory."""
        self._rows = ()
        self._padded = None

    # ── what transformers calls ────────────────────────────────────────────────────────────────

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write `[1, heads, N, dim]` keys and values into the rows' caches.

        Returns:
            The same tensors for packed attention, which finds the caches by itself; otherwise all
            rows' whole caches one after another, `[1, heads, sum of T, dim]`.
        """
        self._layer = layer_idx
        if self._padded is not None:
            self._padded.write(layer_idx, key_states, value_states)
            if not self._latent:
                return key_states, value_states
            one_row = (t.transpose(0, 1).flatten(1, 2)[None] for t in self._padded.read(layer_idx))
            return next(one_row), next(one_row)
        for kv, position, count, offset in self._rows:
            kv.keys[layer_idx].narrow(2, position, count).copy_(key_states.narrow(2, offset, count))
            kv.values[layer_idx].narrow(2, position, count).copy_(
                value_states.narrow(2, offset, count)
            )
        if self.packed and not self._latent:
            return key_states, value_states
        keys = [r.kv.keys[layer_idx][:, :, : r.position + r.tokens] for r in self._rows]
        values = [r.kv.values[layer_idx][:, :, : r.position + r.tokens] for r in self._rows]
        if len(self._rows) == 1:
            return keys[0], values[0]
        return torch.cat(keys, 2), torch.cat(values, 2)

    def attend(
        self,
        module: torch.nn.Module,  # noqa: ARG002
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG002
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[torch.Tensor, None]:
        """Attend row by row.

        Args:
            module: The attention module; not needed.
            query: `[1, heads, N, key_dim]`.
            key: `[1, kv_heads, _, key_dim]`; read only where the cache is latent.
            value: `[1, kv_heads, _, value_dim]`; likewise, else for its shape only.
            attention_mask: None, since there is no mask function.
            scaling: Of the scores.
            sliding_window: How many positions back a token sees, itself included.
            softcap: Scores become softcap · tanh(score / softcap).
            s_aux: `[heads]`, attention sinks: a score that takes weight and gives no value.
            **kwargs: What other attention functions need.

        Returns:
            `[1, N, heads, value_dim]`.
        """
        _, heads, _, dim = query.shape
        kv_heads, value_dim = value.shape[1], value.shape[3]
        groups = heads // kv_heads
        scale = dim**-0.5 if scaling is None else scaling
        sinks = None if s_aux is None else s_aux.view(1, kv_heads, groups, 1, 1)
        plainly = softcap is not None or sinks is not None
        if self._padded is not None:
            if self._latent:
                each = (self._padded.batch, -1)
                keys, values = (
                    t.reshape(t.shape[1], *each, t.shape[3]).transpose(0, 1) for t in (key, value)
                )
            else:
                keys, values = self._padded.read(self._layer)
            query = self._padded.spread(query)
            seen = self._padded.mask(sliding_window)
            grouped = query.reshape(len(query), kv_heads, groups, -1, dim)
            if plainly:
                got = _attend_plainly(grouped, keys, values, seen[:, None], scale, softcap, sinks)
            else:  # the query heads of a group take the place of positions: no key is repeated
                seen = seen.expand(-1, groups, -1, -1).flatten(1, 2)[:, None]
                got = F.scaled_dot_product_attention(
                    grouped.flatten(2, 3), keys, values, attn_mask=seen, scale=scale
                )
            got = got.reshape(len(query), heads, -1, value_dim)
            return self._padded.gather(got), None
        all_keys, all_values = key, value  # of a latent cache, one row's after another's
        expanded = 0
        outs = []
        for kv, position, count, offset in self._rows:
            stop = position + count
            first = max(0, position - sliding_window + 1) if sliding_window else 0
            if self._latent:
                keys = all_keys.narrow(2, expanded + first, stop - first)
                values = all_values.narrow(2, expanded + first, stop - first)
                expanded += stop
            else:
                keys = kv.keys[self._layer].narrow(2, first, stop - first)
                values = kv.values[self._layer].narrow(2, first, stop - first)
            if count == 1 and not plainly:
                # the query heads of a group take the place of positions: no key is repeated
                rows = query.select(2, offset).reshape(1, kv_heads, groups, dim)
                got = F.scaled_dot_product_attention(rows, keys, values, scale=scale)
                outs.append(got.reshape(1, heads, value_dim))
                continue
            rows = query.narrow(2, offset, count).reshape(1, kv_heads, groups, count, dim)
            mask = _mask(position, count, first, sliding_window, query.device)
            if plainly:
                got = _attend_plainly(rows, keys, values, mask, scale, softcap, sinks)
            else:
                got = F.scaled_dot_product_attention(
                    rows[0],
                    keys[0, :, None].expand(-1, groups, -1, -1),
                    values[0, :, None].expand(-1, groups, -1, -1),
                    attn_mask=mask,
                    scale=scale,
                )
            outs.append(got.reshape(heads, count, value_dim).transpose(0, 1))
        return (outs[0] if len(outs) == 1 else torch.cat(outs))[None], None

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Positions before the step; only a lone row has an answer that means something."""
        return self._rows[0].position if len(self._rows) == 1 else 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Keys that the one row sees, and the first one's position."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:  # noqa: ARG002
        """No bound of its own."""
        return -1


def _mask(
    position: int, count: int, first: int, window: int | None, device: torch.device
) -> torch.Tensor | None:
    """`[count, keys]`, True where a query may look; None where it may look everywhere."""
    if count == 1:
        return None
    queries = torch.arange(position, position + count, device=device)[:, None]
    keys = torch.arange(first, position + count, device=device)[None, :]
    allowed = keys <= queries
    return allowed & (keys > queries - window) if window else allowed


def _attend_plainly(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention written out, for what the fused kernels do not know; softmax in float32.

    Args:
        query: `[1, kv_heads, groups, count, dim]`.
        keys: `[1, kv_heads, T, dim]`.
        values: `[1, kv_heads, T, value_dim]`.
        mask: `[count, T]` or None.
        scale: Of the scores.
        softcap: See `attend`.
        sinks: `[1, kv_heads, groups, 1, 1]` or None.

    Returns:
        `[1, kv_heads, groups, count, value_dim]`.
    """
    scores = torch.matmul(query, keys[:, :, None].transpose(3, 4)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.float()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is None:
        weights = torch.softmax(scores, -1)
    else:
        sinks = sinks.float().expand(*scores.shape[:4], 1)
        weights = torch.softmax(torch.cat([scores, sinks], -1), -1)[..., :-1]
    return torch.matmul(weights.to(values.dtype), values[:, :, None])
