import math
from collections import Counter

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from helix_p2p.engine.sampling import sample, uniform
from helix_p2p.session.messages import Sampling


def logits(seed: int = 0, size: int = 200) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


def expected(scores: torch.Tensor, given: Sampling, history: list[int]) -> torch.Tensor:
    """Probabilities as transformers' own processors leave them, in generate's order."""
    ids, row = torch.tensor([history], dtype=torch.long), scores[None].clone()
    if given.repetition_penalty != 1.0:
        row = RepetitionPenaltyLogitsProcessor(given.repetition_penalty)(ids, row)
    row = TemperatureLogitsWarper(given.temperature)(ids, row)
    if given.top_k:
        row = TopKLogitsWarper(given.top_k)(ids, row)
    if given.top_p < 1:
        row = TopPLogitsWarper(given.top_p)(ids, row)
    return torch.softmax(row[0], -1)


@pytest.mark.parametrize(
    "given",
    [
        Sampling(temperature=0.7, seed=5),
        Sampling(temperature=1.5, top_k=10, seed=5),
        Sampling(temperature=1.0, top_p=0.8, seed=5),
        Sampling(temperature=0.9, top_k=20, top_p=0.5, repetition_penalty=1.3, seed=5),
        Sampling(temperature=2.0, top_k=1, seed=5),
    ],
)
def test_shares_are_those_of_transformers_processors(given: Sampling) -> None:
    scores, history = logits(), [3, 3, 17, 60]
    wanted = expected(scores, given, history)
    draws = 3000
    seen = Counter(sample(scores, given, position, history) for position in range(draws))
    assert all(wanted[token] > 0 for token in seen)
    for token, probability in enumerate(wanted.tolist()):
        spread = math.sqrt(max(probability * (1 - probability), 1e-9) * draws)
        assert abs(seen[token] - probability * draws) < 5 * spread + 1


def test_a_nucleus_wider_than_the_first_try_is_found() -> None:
    scores = torch.zeros(5000)
    given = Sampling(temperature=1.0, top_p=0.9)
    seen = {sample(scores, given, position) for position in range(400)}
    assert max(seen) > 1024 or min(seen) < 5000 - 1024
    assert len(seen) > 350


def test_greedy_is_the_best_token_after_the_penalty() -> None:
    scores = torch.tensor([1.0, 2.0, 1.9, -1.0])
    assert sample(scores, Sampling(), 0) == 1
    assert sample(scores, Sampling(repetition_penalty=1.5), 0, [1]) == 2
    assert scores.tolist() == pytest.approx([1.0, 2.0, 1.9, -1.0])


def test_seed_and_position_alone_make_the_chance() -> None:
    scores = logits()
    given = Sampling(temperature=1.0, seed=9)
    once = [sample(scores, given, position) for position in range(50)]
    assert [sample(scores.clone(), given, position) for position in reversed(range(50))] == once[
        ::-1
    ]
    other = [sample(scores, Sampling(temperature=1.0, seed=10), p) for p in range(50)]
    assert other != once


def test_uniform_is_fixed_for_all_time() -> None:
    assert uniform(0, 0) == 0.011546754286331562
    assert uniform(-1, 7) == 0.6865660636114761
