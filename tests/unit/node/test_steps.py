"""A step's rows and the payloads that they share with frames."""

import torch

from helix_p2p.engine.contract import StepResult
from helix_p2p.node import steps
from helix_p2p.session.effects import RunStep, StepRow
from helix_p2p.session.messages import Open, Phase
from helix_p2p.types import LayerRange, PeerId, SessionId


class Engine:
    """Keeps what it was given."""

    def step(self, layers, rows, *, tokens=None, hidden=None):
        self.given = tokens if hidden is None else hidden
        return StepResult(None, (None,) * len(rows))


def row(payload, count, skip):
    me = PeerId("me")
    opened = Open(SessionId(b"1" * 16), 1, 1, LayerRange(0, 2), me, me, None, 100)
    return StepRow(opened, skip, count, False, payload, skip=skip)


def test_a_row_that_was_cut_runs_its_own_part_of_the_payload():
    engine = Engine()
    parts = (row((10, 11, 12, 13), 2, 1),)
    steps.run(engine, RunStep(Phase.PREFILL, LayerRange(0, 2), parts, True))
    assert engine.given == [11, 12]
    hidden = torch.arange(8.0).view(4, 2)
    parts = (row(hidden, 1, 3), row(hidden[:2], 2, 0))
    steps.run(engine, RunStep(Phase.PREFILL, LayerRange(2, 4), parts, False))
    assert torch.equal(engine.given, torch.cat((hidden[3:4], hidden[:2])))
