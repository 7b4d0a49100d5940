"""What a stage says: rows to its next stage, tokens and failures to the entry peer.

Always: built from rows as they ran and nothing else; sending them changes no state here.
"""

from collections.abc import Sequence
from typing import TypeVar

from helix_p2p.errors import HelixError
from helix_p2p.session.effects import Send, StepRow
from helix_p2p.session.messages import Forward, Open, Phase, Sampled, StageFailed, failure_of
from helix_p2p.types import PeerId

P = TypeVar("P")


def failed(open_: Open, at_fault: PeerId, error: HelixError) -> Send:
    """A session ends on this stage, by whose fault and how."""
    said = StageFailed(open_.session, open_.attempt, at_fault, failure_of(error))
    return Send(open_.entry, said)


def forward(phase: Phase, rows: Sequence[StepRow[P]], opens: Sequence[Open]) -> Forward:
    """Rows that ran, for the next stage; `opens` are the rows' own."""
    decode = phase is Phase.DECODE
    return Forward(
        phase,
        tuple([open_.session for open_ in opens]),
        tuple([open_.attempt for open_ in opens]),
        tuple([row.position for row in rows]),
        (1,) * len(rows) if decode else tuple([row.count for row in rows]),
        tuple([row.wanted for row in rows]),
    )


def sampled(
    rows: Sequence[StepRow[P]], tokens: Sequence[int | None], indices: Sequence[int]
) -> Sampled:
    """The tokens of those rows that one entry peer waits for."""
    chosen = [rows[index] for index in indices]
    return Sampled(
        tuple([row.open.session for row in chosen]),
        tuple([row.open.attempt for row in chosen]),
        tuple([row.position + row.count for row in chosen]),
        tuple([token for index in indices if (token := tokens[index]) is not None]),
    )
