"""Small real tokenizers and model folders for the client's tests."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CORPUS = ["the quick brown fox jumps over the lazy dog", "hello hello world, how are you today"]


def byte_level() -> Tokenizer:
    """A byte-level BPE as GPT-2, Llama 3, Qwen and SmolLM2 use it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """Word pieces with byte fallback, as Llama 2, Mistral and Gemma use them."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary += ["▁", "▁hello", "▁world", "lo", "he", "l", "o", ",", "▁a"]
    tokenizer = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(vocabulary)},
            [],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def write_model(folder: Path, *, template: str | None = CHATML, context_tokens: int = 256) -> Path:
    """A model folder as a client needs it."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_level().save(str(folder / "tokenizer.json"))
    tokenizer_config: dict[str, object] = {
        "eos_token": "<|im_end|>",
        "bos_token": {"__type": "AddedToken", "content": "<|im_start|>", "lstrip": False},
    }
    if template is not None:
        tokenizer_config["chat_template"] = template
    config = {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 4,
        "vocab_size": 320,
        "max_position_embeddings": context_tokens,
        "eos_token_id": 0,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    return folder


class Files:
    """Model files in memory."""

    origin = "the test's model"

    def __init__(self, **files: bytes) -> None:
        self.files = {name.replace("__", "."): data for name, data in files.items()}

    @classmethod
    def of(cls, folder: Path) -> "Files":
        made = cls()
        made.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        return made

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)
