"""What one process with the whole model says: the truth that the swarm must equal."""

import functools
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = (
    "Tell me about the sea.",
    "Write a haiku about winter.",
    "What is the capital of France?",
    "Explain gravity to a child.",
    "List three uses for a brick.",
    "Why is the sky blue?",
    "Give me a recipe for pancakes.",
    "Translate 'good morning' into Spanish.",
    "Who wrote Hamlet?",
    "Describe a sunset over a city.",
    "What does a compiler do?",
    "Name the planets of the solar system.",
    "How do vaccines work?",
    "Tell me a short joke.",
    "What is the difference between a list and a tuple in Python?",
    "Summarise the story of Cinderella.",
    "How many legs does a spider have?",
    "Write one sentence about friendship.",
    "What is photosynthesis?",
    "Suggest a name for a grey cat.",
)


@functools.cache
def whole(folder: Path):
    """Tokenizer and model, float32, one thread."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return tokenizer, model.eval()


@functools.cache
def greedy(folder: Path, prompt: str, tokens: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt ids (by the model's chat template) and the greedy answer's ids."""
    tokenizer, model = whole(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        out = model.generate(**ids, max_new_tokens=tokens, do_sample=False)
    start = ids["input_ids"].shape[1]
    return tuple(ids["input_ids"][0].tolist()), tuple(out[0, start:].tolist())
