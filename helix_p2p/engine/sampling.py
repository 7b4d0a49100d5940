"""Choosing the next token: a pure function of logits, parameters, history and position.

Chance comes from Philox, a counter-based generator (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011): the key is the seed and the counter the token's absolute position, so a
replay on another peer draws the same number. Filters follow transformers' logits processors in
their order: repetition penalty, temperature, top-k, top-p.
"""

from collections.abc import Sequence

import numpy as np
import torch

from helix_p2p.session.messages import Sampling

TOP_P_FIRST_TRY = 1024
"""Candidates sorted first under top-p: sorting a vocabulary of 49k takes 3 ms, the best 1024 of it
0.3 ms, and they nearly always hold the mass."""

_MASK_64 = (1 << 64) - 1


def sample(
    logits: torch.Tensor, sampling: Sampling, position: int, history: Sequence[int] = ()
) -> int:
    """Choose one token.

    Args:
        logits: `[vocab]`, any float dtype; not changed.
        sampling: How.
        position: Absolute position of the new token.
        history: Tokens before it, for the repetition penalty.

    Returns:
        The token's id. Equal arguments give an equal token.
    """
    scores = logits.float()
    if sampling.repetition_penalty != 1.0 and len(history) > 0:
        scores = _penalise(scores, history, sampling.repetition_penalty)
    if sampling.temperature <= 0:
        return int(scores.argmax())
    scores = scores / sampling.temperature
    ids: torch.Tensor | None = None
    if 0 < sampling.top_k < scores.numel():
        # ids ascending, so that equal logits keep one order whatever the sort did
        floor = torch.topk(scores, sampling.top_k).values[-1]
        ids = (scores >= floor).nonzero().flatten()
        scores = scores[ids]
    probabilities = torch.softmax(scores, -1)
    if sampling.top_p < 1.0:
        kept = _nucleus(probabilities, sampling.top_p)
        probabilities = probabilities[kept]
        ids = kept if ids is None else ids[kept]
    cumulative = torch.cumsum(probabilities, -1, dtype=torch.float64)
    draw = uniform(sampling.seed, position) * float(cumulative[-1])
    chosen = int(torch.searchsorted(cumulative, draw, right=True))
    chosen = min(chosen, cumulative.numel() - 1)
    return chosen if ids is None else int(ids[chosen])


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that belongs to (seed, position)."""
    generator = np.random.Philox(key=seed & _MASK_64, counter=position & _MASK_64)
    return float(np.random.Generator(generator).random())


def _penalise(scores: torch.Tensor, history: Sequence[int], penalty: float) -> torch.Tensor:
    seen = torch.tensor(sorted(set(history)), dtype=torch.long, device=scores.device)
    seen = seen[(seen >= 0) & (seen < scores.numel())]
    scores = scores.clone()
    old = scores[seen]
    scores[seen] = torch.where(old < 0, old * penalty, old / penalty)
    return scores


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Ids, ascending, of the fewest best tokens that hold at least `top_p` of the mass."""
    size = min(TOP_P_FIRST_TRY, probabilities.numel())
    best = torch.topk(probabilities, size)
    mass = torch.cumsum(best.values, -1, dtype=torch.float64)
    if float(mass[-1]) < top_p and size < probabilities.numel():
        best = torch.topk(probabilities, probabilities.numel())
        mass = torch.cumsum(best.values, -1, dtype=torch.float64)
    # a token stays while the mass before it is below top_p; the best one always stays
    kept = 1 + int(torch.count_nonzero(mass[:-1] < top_p))
    return best.indices[:kept].sort().values
