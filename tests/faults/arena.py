"""Real swarms to break: one that stays up while its peers are killed, and answers that are watched.

Always: everything started here is a child of this process, stopped by its own id at the end.
"""

import asyncio
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helix_p2p import Swarm
from helix_p2p.client.stream import TextStream
from helix_p2p.engine.smollm2 import cache_folder, fetch_smollm2
from helix_p2p.errors import HelixError
from tests.e2e.lab import Lab, lab
from tests.faults.table import Setting

SMOLLM2_MB = (330, 380, 450, 420)
"""So little that no peer holds the model; the planner gives each layer one holder."""
HELD_TWICE = {
    1000: "0-10",
    1001: "0-10",
    1010: "10-20",
    1011: "10-20",
    1020: "20-30",
    1021: "20-30",
}
"""Memory of six peers, and the layers that `steady_peer.py` gives them. With less memory the long
ranges would leave so little KV room that peers refuse the plan as far below a greedy one."""
TINY_LAYERS = 6
TINY_TWICE = {100: "0-2", 101: "0-2", 110: "2-4", 111: "2-4", 120: "4-6", 121: "4-6"}
USERS_PROMPTS = (
    "Tell me about the sea.",
    "Explain gravity to a child.",
    "Describe a sunset over a city.",
    "How do vaccines work?",
    "Summarise the story of Cinderella.",
    "Why is the sky blue?",
)
SAMPLED = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": 7}
Pipeline = tuple[tuple[str, object], ...]


def tiny_model() -> Path:
    """A random Llama of 6 layers, small enough for any row, with SmolLM2's tokenizer beside it."""
    folder = cache_folder() / "models" / "faults-llama-6x64"
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49152,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=TINY_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            bos_token_id=1,
            eos_token_id=2,
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            LlamaForCausalLM(config).save_pretrained(made)
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                (Path(made) / name).write_bytes((fetch_smollm2() / name).read_bytes())
            Path(made).rename(folder)
            Path(made).mkdir()
    return folder


@contextlib.asynccontextmanager
async def swarm_of(
    setting: Setting,
    model: Path,
    memory_mb: Sequence[int],
    ranges: Mapping[int, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Lab]:
    """A bootstrap node and peers p0, p1, …, all serving.

    Args:
        setting: Of the measurement.
        model: Its folder.
        memory_mb: One for each peer.
        ranges: Layers by memory, instead of what the planner would choose.
        environment: Of all its processes, beside ours.
    """
    async with lab(setting.folder, model) as made:
        made.environment.update(environment or {})
        if ranges:
            made.give_ranges(ranges)
        await made.bootstrap()
        names = [f"p{number}" for number in range(len(memory_mb))]
        for name, memory in zip(names, memory_mb, strict=True):
            await made.peer(name, memory)
        await made.serving(*names)
        yield made


@dataclass
class Answer:
    """One generation, watched token by token.

    Attributes:
        moments_s: When each token came.
        tokens: All of them.
        pipelines: The pipeline as the client knew it at each token.
        error: Why it ended early.
    """

    name: str
    options: dict[str, Any]
    moments_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    pipelines: list[Pipeline] = field(default_factory=list)
    error: HelixError | None = None
    restarts: int = 0
    ended_s: float | None = None

    async def run(self, stream: TextStream) -> "Answer":
        """Read the stream to its end; a typed error ends it as well."""
        try:
            async with stream:
                async for piece in stream:
                    self.moments_s += [time.monotonic()] * len(piece.tokens)
                    self.tokens += piece.tokens
                    self.pipelines += [stream.pipeline] * len(piece.tokens)
        except HelixError as error:
            self.error = error
        self.restarts = stream.session.restarts
        self.ended_s = time.monotonic()
        return self

    @property
    def pipeline(self) -> Pipeline:
        """The latest."""
        return self.pipelines[-1] if self.pipelines else ()

    def added_delay_s(self, broken_s: float) -> float | None:
        """The longest gap from `broken_s` on, less what usually lies between two tokens.

        The first gap need not be it: what was under way at that moment still arrives.
        """
        before = [at_s for at_s in self.moments_s if at_s <= broken_s]
        after = [at_s for at_s in self.moments_s if at_s > broken_s]
        if len(before) < 2 or not after:
            return None
        usual_s = statistics.median(b - a for a, b in itertools.pairwise(before))
        longest_s = max(b - a for a, b in itertools.pairwise([broken_s, *after]))
        return max(0.0, longest_s - usual_s)


def ask(swarm: Swarm, prompt: str, tokens: int, **options: Any) -> tuple[Answer, TextStream]:
    """Begin an answer of exactly so many tokens."""
    messages = [{"role": "user", "content": prompt}]
    stream = swarm.chat_stream(messages, max_tokens=tokens, ignore_eos=True, **options)
    return Answer(prompt, options), stream


async def whole(swarm: Swarm, prompt: str, tokens: int, **options: Any) -> tuple[int, ...]:
    """The unbroken answer."""
    answer, stream = ask(swarm, prompt, tokens, **options)
    await answer.run(stream)
    if answer.error is not None:
        raise answer.error
    return tuple(answer.tokens)


async def until(condition: Any, timeout_s: float, what: str, every_s: float = 0.02) -> None:
    """Wait for a condition with a deadline."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - other processes' state
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {timeout_s:g} s") from None


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
