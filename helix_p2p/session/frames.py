"""What an entry peer says to a pipeline: the openings of its stages, prefill chunks, decode frames.

Always: built from a generation as it stands and nothing else; sending them changes no state here.
"""

from collections.abc import Sequence

from helix_p2p.session.effects import Send
from helix_p2p.session.generation import Generation
from helix_p2p.session.messages import Forward, LastStage, Open, Phase
from helix_p2p.types import PeerId


def openings(generation: Generation, me: PeerId, epoch: int) -> list[Send]:
    """An `Open` for each stage of its route, first to last."""
    route = generation.route
    sends = []
    for index, hop in enumerate(route):
        is_last = index == len(route) - 1
        message = Open(
            session=generation.name,
            attempt=generation.attempt,
            epoch=epoch,
            layers=hop.layers,
            entry=me,
            previous=route[index - 1].peer if index else me,
            next=None if is_last else route[index + 1].peer,
            kv_tokens=generation.kv_tokens,
            last=_last_stage(generation) if is_last else None,
        )
        sends.append(Send(hop.peer, message))
    return sends


def prefill(generation: Generation, me: PeerId, chunk_tokens: int) -> list[Send]:
    """Everything that is known, in chunks; the last one's last position gives the next token."""
    tokens = generation.tokens
    return [
        Send(
            me,
            Forward(
                Phase.PREFILL,
                (generation.name,),
                (generation.attempt,),
                (start,),
                (min(chunk_tokens, len(tokens) - start),),
                (start + chunk_tokens >= len(tokens),),
                tuple(tokens[start : start + chunk_tokens]),
            ),
        )
        for start in range(0, len(tokens), chunk_tokens)
    ]


def decode(generations: Sequence[Generation], me: PeerId) -> Send:
    """One frame with the latest token of each."""
    return Send(
        me,
        Forward(
            Phase.DECODE,
            tuple([g.name for g in generations]),
            tuple([g.attempt for g in generations]),
            tuple([len(g.tokens) - 1 for g in generations]),
            (1,) * len(generations),
            (True,) * len(generations),
            tuple([g.tokens[-1] for g in generations]),
        ),
    )


def _last_stage(generation: Generation) -> LastStage:
    sampling = generation.request.sampling
    needs_history = sampling.repetition_penalty != 1.0
    return LastStage(sampling, tuple(generation.tokens) if needs_history else ())
