"""A real chat model through slices gives the tokens that transformers gives."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from helix_p2p.engine.contract import SampleRequest, StepRow
from helix_p2p.engine.manifest import read_manifest
from helix_p2p.engine.torch_engine import EngineConfig, TorchEngine
from helix_p2p.session.messages import Sampling
from helix_p2p.types import LayerRange, SessionId

PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about rain.",
    "Count from 1 to 12.",
    "Explain in one sentence why the sky is blue, as you would to a child of seven years.",
]
NEW_TOKENS = 24


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()


def whole_answers(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=2,
        )
        answers.append(out[0, len(prompt) :].tolist())
    return answers


def test_concurrent_sessions_through_three_stages_equal_generate(
    smollm2: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    chats = [[{"role": "user", "content": text}] for text in PROMPTS]
    prompts = [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        for chat in chats
    ]
    manifest = read_manifest(smollm2, cache=tmp_path / "hashes")
    stages = []
    for held, run in (((0, 12), (0, 10)), ((6, 22), (10, 20)), ((20, 30), (20, 30))):
        engine = TorchEngine(smollm2, manifest, EngineConfig(1 << 30))
        engine.install(engine.prepare(LayerRange(*held)))
        stages.append((engine, LayerRange(*run)))

    sessions = [SessionId(bytes([number]) * 16) for number in range(len(prompts))]
    for engine, layers in stages:
        for session, prompt in zip(sessions, prompts, strict=True):
            engine.open(session, layers, len(prompt) + NEW_TOKENS)

    def step(rows: list[StepRow], tokens: list[int]) -> list[int]:
        hidden = None
        for engine, layers in stages:
            result = engine.step(layers, rows, tokens=tokens, hidden=hidden)
            hidden = result.hidden
        return [token for token in result.tokens if token is not None]

    answers: list[list[int]] = []
    for session, prompt in zip(sessions, prompts, strict=True):
        wish = SampleRequest(Sampling(), len(prompt))
        answers.append(step([StepRow(session, 0, len(prompt), wish)], prompt))
    for _ in range(NEW_TOKENS - 1):
        rows = []
        for session, prompt, answer in zip(sessions, prompts, answers, strict=True):
            position = len(prompt) + len(answer) - 1
            rows.append(StepRow(session, position, 1, SampleRequest(Sampling(), position + 1)))
        for answer, token in zip(answers, step(rows, [a[-1] for a in answers]), strict=True):
            answer.append(token)
    assert answers == whole_answers(smollm2, prompts)
