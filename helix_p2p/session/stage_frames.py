"""What a stage says: rows to its next stage, tokens and failures to the entry peer.

Always: built from rows as they ran and nothing else; sending them changes no state here.
"""

from collections.abc import Sequence
from typing import TypeVar

from helix_p2p.errors import HelixError
from helix_p2p.session.decode_rows import DecodeRows
from helix_p2p.session.effects import Send, StepRow
from helix_p2p.session.messages import Forward, Open, Phase, Sampled, StageFailed, failure_of
from helix_p2p.types import PeerId

P = TypeVar("P")


def failed(open_: Open, at_fault: PeerId, error: HelixError) -> Send:
    """A session ends on this stage, by whose fault and how."""
    said = StageFailed(open_.session, open_.attempt, at_fault, failure_of(error))
    return Send(open_.entry, said)


def forward(phase: Phase, rows: Sequence[StepRow[P]]) -> Forward:
    """Rows that ran, for the next stage."""
    if isinstance(rows, DecodeRows):
        ones = (1,) * len(rows.sessions)
        return Forward(phase, rows.sessions, rows.attempts, rows.positions, ones, rows.wanted)
    return Forward(
        phase,
        tuple([row.session for row in rows]),
        tuple([row.attempt for row in rows]),
        tuple([row.position for row in rows]),
        tuple([row.count for row in rows]),
        tuple([row.wanted for row in rows]),
    )


def chosen(rows: Sequence[StepRow[P]], indices: Sequence[int]) -> Sequence[StepRow[P]]:
    """Some rows of a step, in its order."""
    if len(indices) == len(rows):
        return rows
    if isinstance(rows, DecodeRows):
        return rows.pick(indices)
    return [rows[index] for index in indices]


def sampled(rows: Sequence[StepRow[P]], tokens: Sequence[int]) -> Sampled:
    """The tokens of those rows that one entry peer waits for."""
    if isinstance(rows, DecodeRows):
        after = tuple([position + 1 for position in rows.positions])
        return Sampled(rows.sessions, rows.attempts, after, tuple(tokens))
    return Sampled(
        tuple([row.session for row in rows]),
        tuple([row.attempt for row in rows]),
        tuple([row.position + row.count for row in rows]),
        tuple(tokens),
    )
