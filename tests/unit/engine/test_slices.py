"""Slices of every supported architecture compute what the whole model computes."""

from pathlib import Path

import pytest
import torch

from helix_p2p.engine.contract import SampleRequest, StepRow
from helix_p2p.engine.supported import SUPPORTED
from helix_p2p.session.messages import Sampling
from tests.unit.engine.tiny import CONFIGS, Chain, make_model, session

THREE_STAGES = [((0, 3), (0, 2)), ((1, 5), (2, 4)), ((3, 6), (4, 6))]
"""What each peer holds and runs: the second and the third are entered in the middle."""


def ids(seed: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 97, (count,), generator=generator).tolist()


def test_every_supported_architecture_is_compared_with_the_whole_model() -> None:
    assert len(CONFIGS) == len(SUPPORTED)
    assert all(any(name.startswith(kind) for kind in CONFIGS) for name in SUPPORTED)


@pytest.mark.parametrize("name", CONFIGS)
def test_three_slices_equal_the_whole_model_batched_chunked_and_joined_midway(
    name: str, tmp_path: Path
) -> None:
    model = make_model(name, tmp_path)
    long, short = ids(1, 17), ids(2, 11)
    with torch.no_grad():
        whole_long = model(torch.tensor([long])).logits[0]
        whole_short = model(torch.tensor([short])).logits[0]
    chain = Chain(tmp_path, THREE_STAGES)
    first, second = session(1), session(2)

    chain.open(first)
    got_long = [chain.logits([StepRow(first, 0, 9)], long[:9])]
    got_long.append(chain.logits([StepRow(first, 9, 3)], long[9:12]))
    chain.open(second)  # joins while the first decodes
    rows = [StepRow(first, 12, 1), StepRow(second, 0, 7)]
    out = chain.logits(rows, [long[12], *short[:7]])
    got_long.append(out[:1])
    got_short = [out[1:]]
    for i in range(4):
        rows = [StepRow(second, 7 + i, 1), StepRow(first, 13 + i, 1)]
        out = chain.logits(rows, [short[7 + i], long[13 + i]])
        got_short.append(out[:1])
        got_long.append(out[1:])

    scale = max(1.0, float(whole_long.abs().max()))  # 1e-5 of the logits' size: float32's own noise
    assert (torch.cat(got_long) - whole_long).abs().max() < 1e-5 * scale
    assert (torch.cat(got_short) - whole_short).abs().max() < 1e-5 * scale


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("llama")
    return folder, make_model("Llama", folder)


def test_greedy_tokens_through_slices_equal_generate(llama: tuple[Path, torch.nn.Module]) -> None:
    folder, model = llama
    prompt = ids(3, 12)
    whole = model.generate(  # type: ignore[operator]
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 12, dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, 12:].tolist()
    chain = Chain(folder, THREE_STAGES)
    chain.open(session(1))
    tokens, position, answer = prompt, 0, []
    for _ in range(20):
        hidden = None
        wish = SampleRequest(Sampling(), position + len(tokens))
        for engine, layers in chain.stages:
            row = StepRow(session(1), position, len(tokens), wish if layers.end == 6 else None)
            result = engine.step(layers, [row], tokens=tokens, hidden=hidden)
            hidden = result.hidden
        position += len(tokens)
        (token,) = result.tokens
        assert token is not None
        tokens = [token]
        answer.append(token)
    assert answer == whole
