"""Between frames and the engine: a frame's rows, the engine's step, its output's way onward.

Always: rows share the frame's memory, and a step's output leaves from the engine's own memory,
copied only where a frame carries some of its rows; what another machine sent is checked here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from msgspec.structs import replace

from helix_p2p.cluster.model import ModelSpec
from helix_p2p.engine import wireformat
from helix_p2p.engine.contract import Engine, SampleRequest, StepResult
from helix_p2p.engine.contract import StepRow as EngineRow
from helix_p2p.errors import ProtocolError
from helix_p2p.session.effects import RunStep
from helix_p2p.session.messages import Forward, Sampling
from helix_p2p.types import LayerRange, SessionId
from helix_p2p.wire.framing import Buffer

Tokens = tuple[int, ...]
RowPayload = Tokens | torch.Tensor
"""A row's input: token ids on a first stage, `[count, d_model]` elsewhere."""


def rows_of(message: Forward, payload: Buffer, spec: ModelSpec) -> list[RowPayload]:
    """Cut a frame, checked with `check_forward`, into its rows.

    Raises:
        ProtocolError: Tokens that the model does not know.
        PoisonedActivation: Not the activations that the frame says, or absurd ones.
    """
    if message.tokens:
        if min(message.tokens) < 0 or max(message.tokens) >= spec.vocab_size:
            raise ProtocolError("a token that the model does not know")
        source: Tokens | torch.Tensor = message.tokens
    else:
        total = sum(message.counts)
        source = wireformat.from_bytes(payload, message.dtype, total, spec.d_model)
    rows: list[RowPayload] = []
    start = 0
    for count in message.counts:
        rows.append(source[start : start + count])
        start += count
    return rows


def run(engine: Engine, step: RunStep[RowPayload]) -> StepResult:
    """Run a step; engine thread. Raises as `Engine.step`."""
    rows = [
        EngineRow(
            row.session,
            row.position,
            row.count,
            None
            if row.last is None
            else SampleRequest(row.last.sampling, row.position + row.count, row.history),
        )
        for row in step.rows
    ]
    payloads = [
        row.payload[row.skip : row.skip + row.count]
        if row.count < len(row.payload)
        else row.payload
        for row in step.rows
    ]
    if step.takes_tokens:
        tokens = [t for p in payloads if not isinstance(p, torch.Tensor) for t in p]
        return engine.step(step.layers, rows, tokens=tokens)
    tensors = [payload for payload in payloads if isinstance(payload, torch.Tensor)]
    hidden = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    return engine.step(step.layers, rows, hidden=hidden)


@dataclass(slots=True)
class Outputs:
    """What the last step gave for the next stages."""

    _hidden: torch.Tensor | None = None
    _offsets: list[int] = field(default_factory=lambda: [0])

    def keep(self, step: RunStep[RowPayload], result: StepResult) -> None:
        """A step is done."""
        self._hidden = result.hidden
        self._offsets = [0]
        for row in step.rows:
            self._offsets.append(self._offsets[-1] + row.count)

    def frame(self, message: Forward, rows: Sequence[int]) -> tuple[Forward, memoryview]:
        """The frame that carries some of the step's rows."""
        hidden = self._hidden
        assert hidden is not None, "the last stage sends no activations"
        if len(rows) + 1 != len(self._offsets):
            hidden = torch.cat([hidden[self._offsets[r] : self._offsets[r + 1]] for r in rows])
        dtype = wireformat.dtype_name(hidden.dtype)
        return replace(message, dtype=dtype), wireformat.to_bytes(hidden)


def rerun(
    engine: Engine,
    session: SessionId,
    layers: LayerRange,
    counts: Sequence[int],
    wanted: Sequence[bool],
    hidden: torch.Tensor,
    sampling: Sampling | None,
) -> tuple[torch.Tensor | None, tuple[int, ...]]:
    """Run rows one after another from position 0, in a cache of their own; engine thread.

    The rows have the shapes that they had the first time, so that equal devices give equal numbers.

    Args:
        engine: Ours.
        session: A name that nobody else has.
        layers: Which.
        counts: Positions of each row.
        wanted: Which rows are sampled, with `sampling`.
        hidden: `[sum(counts), d_model]`.
        sampling: On a last stage.

    Returns:
        Activations, or None and the tokens.
    """
    engine.open(session, layers, sum(counts))
    outputs: list[torch.Tensor] = []
    tokens: list[int] = []
    position = 0
    try:
        for count, sampled in zip(counts, wanted, strict=True):
            request = None
            if sampled and sampling is not None:
                request = SampleRequest(sampling, position + count)
            row = EngineRow(session, position, count, request)
            result = engine.step(layers, [row], hidden=hidden[position : position + count])
            if result.hidden is not None:
                outputs.append(result.hidden.clone())
            tokens += [token for token in result.tokens if token is not None]
            position += count
    finally:
        engine.close(session)
    return (torch.cat(outputs) if outputs else None), tuple(tokens)
