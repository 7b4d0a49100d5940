"""What an entry peer says to a pipeline: the openings of its stages, prefill chunks, decode frames.

Always: built from a generation as it stands and nothing else; sending them changes no state here.
"""

from collections.abc import Sequence

from helix_p2p.session.effects import Send
from helix_p2p.session.generation import Generation
from helix_p2p.session.messages import Close, Forward, LastStage, Open, Phase, Trace
from helix_p2p.session.prefixes import PREFIX_BLOCK_TOKENS, upstream_of
from helix_p2p.types import PeerId


def openings(generation: Generation, me: PeerId, epoch: int) -> list[Send]:
    """An `Open` for each stage of its route, first to last."""
    route, kv_tokens = generation.route, generation.kv_tokens
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
            kv_tokens=kv_tokens,
            last=_last_stage(generation) if is_last else None,
            prefix=_prefix(generation, index, len(generation.tokens) - 1),
        )
        sends.append(Send(hop.peer, message))
    return sends


def closings(generation: Generation, *, keep: bool) -> list[Send]:
    """A `Close` for each stage of its route, first to last.

    Args:
        generation: As it ends on this route.
        keep: Whether its caches may serve others that begin alike; its `chain` is up to date then.
    """
    return [
        Send(
            hop.peer,
            Close(
                generation.name,
                generation.attempt,
                _prefix(generation, index, len(generation.tokens)) if keep else (),
            ),
        )
        for index, hop in enumerate(generation.route)
    ]


def _prefix(generation: Generation, index: int, tokens: int) -> tuple[bytes, ...]:
    chain = generation.chain[: tokens // PREFIX_BLOCK_TOKENS]
    return (upstream_of(generation.route, index), *chain) if chain else ()


def prefill(generation: Generation, me: PeerId, chunk_tokens: int) -> list[Send]:
    """Everything that is known and that not every stage has, in chunks.

    The last one's last position gives the next token.
    """
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
        for start in range(generation.reused, len(tokens), chunk_tokens)
    ]


def decode(generations: Sequence[Generation], me: PeerId) -> Send:
    """One frame with the latest token of each; the first client that asked gets a trace."""
    traced = next((g.name for g in generations if g.request.trace), None)
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
            trace=None if traced is None else Trace(traced),
        ),
    )


def _last_stage(generation: Generation) -> LastStage:
    sampling = generation.request.sampling
    needs_history = sampling.repetition_penalty != 1.0
    return LastStage(sampling, tuple(generation.tokens) if needs_history else ())
