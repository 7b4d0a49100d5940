"""A real swarm to measure: models that fit a bench, peers as processes, what these use.

Always: peers, daemons, bootstrap node and the client's daemon are separate processes over libp2p on
loopback, started as users start them (`tests/e2e/lab.py`) and gone at the end.
"""

import contextlib
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helix_p2p.cli.errors import EXIT_INTERRUPTED
from helix_p2p.cli.running import run_once
from helix_p2p.engine.smollm2 import cache_folder, fetch_smollm2
from tests.e2e.lab import Lab, lab

T = TypeVar("T")

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def small_model() -> Path:
    """A random 8-layer Llama, h=512, vocabulary 32000: 170 MB."""
    return _random_llama(
        "bench-llama-8x512",
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
    )


def tiny_model() -> Path:
    """A random 6-layer Llama, h=256, vocabulary 4096, one KV head: 27 MB, a cheap step."""
    return _random_llama(
        "bench-llama-6x256",
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=1,
    )


def _random_llama(name: str, **sizes: Any) -> Path:
    """A Llama with random weights and SmolLM2's tokenizer beside it, made once."""
    folder = cache_folder() / "models" / name
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        config = LlamaConfig(max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, **sizes)
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        LlamaForCausalLM(config).save_pretrained(made)
        for file in TOKENIZER_FILES:
            (made / file).write_bytes((fetch_smollm2() / file).read_bytes())
        made.rename(folder)
    return folder


def prompts(count: int, vocabulary: int, tokens: int) -> list[list[int]]:
    """Random token ids, the same for the same count."""
    rng = random.Random(count)
    return [[rng.randrange(10, vocabulary) for _ in range(tokens)] for _ in range(count)]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a benchmark on the loop that commands run on; a signal ends it and what it started."""
    try:
        return run_once(work)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was started has ended\n")
        sys.exit(EXIT_INTERRUPTED)


@contextlib.asynccontextmanager
async def served(folder: Path, memory_mb: Sequence[int]) -> AsyncIterator[Lab]:
    """A bootstrap node and one serving peer, `p0` and on, for each entry of `memory_mb`."""
    with tempfile.TemporaryDirectory(prefix="helix-bench-") as work:
        async with lab(Path(work), folder) as made:
            await made.bootstrap()
            names = [f"p{number}" for number in range(len(memory_mb))]
            for peer, memory in zip(names, memory_mb, strict=True):
                await made.peer(peer, memory)
            await made.serving(*names)
            yield made


def family(made: Lab) -> dict[str, psutil.Process]:
    """Every process of the swarm by name, daemons included, this one and its daemon as `client`."""
    found: dict[str, psutil.Process] = {}
    for name in [n for n in made.commands if n == "bootstrap" or n[0] == "p"]:
        own, *children = made.commands[name].family()
        found |= {name: own, **_numbered(f"{name} daemon", children)}
    own = psutil.Process()
    known = {process.pid for process in found.values()}
    mine = [c for c in own.children() if c.pid not in known and c.name().startswith("p2pd")]
    return {**found, "client": own, **_numbered("client daemon", mine)}


def _numbered(name: str, processes: Sequence[psutil.Process]) -> dict[str, psutil.Process]:
    return {name if i == 0 else f"{name} {i}": p for i, p in enumerate(processes)}


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """CPU seconds that they have used so far."""
    total = 0.0
    for process in processes:
        times = process.cpu_times()
        total += times.user + times.system
    return total
