"""One pass of a span over packed rows: positions, masks, the cache, and nothing about sessions.

The engine and the speed profile run layers through here, so what is measured is what serves.
Always: rows lie one after another in the order given; architectures whose attention cannot be
replaced run row by row.
"""

from collections.abc import Sequence

import torch

from helix_p2p.engine.architecture import Architecture
from helix_p2p.engine.attention import PackedAttention, Row
from helix_p2p.engine.slices import Span


class Runner:
    """Runs spans of one model on one device.

    Args:
        architecture: Of the model.
        device: Where layers and caches lie.
    """

    def __init__(self, architecture: Architecture, device: torch.device) -> None:
        self._device = device
        self._attention = PackedAttention(
            stock=None if architecture.packed else "eager", latent=architecture.latent
        )

    @property
    def attention_name(self) -> str:
        """What the layers must be told to use."""
        return self._attention.name

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
            rows: At least one.
            ids: `[1, N]` token ids, for a span that starts at 0.
            states: `[1, N, d_model]` otherwise.

        Returns:
            `[N, d_model]` for all rows.
        """
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
