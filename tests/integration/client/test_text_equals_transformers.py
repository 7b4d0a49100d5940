"""Without transformers, the client makes the very tokens and texts that transformers makes."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from helix_p2p.client.model_text import ModelText
from tests.unit.client.small_models import Files, write_model

CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "You are kind, brief and you never lie."},
        {"role": "user", "content": "  Grüße, 世界! 🦊\n\n\tcode = {'a': 1}  "},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And <|im_end|> now?"},
    ],
]
TEXTS = [
    "",
    " ",
    "hello world",
    "Grüße, 世界! 🦊‍🔥",
    "a\n\n\nb\t c",
    "<|im_start|>user\nx",
    "x" * 500,
]


def assert_equal(folder: Path) -> None:
    theirs, ours = AutoTokenizer.from_pretrained(folder), ModelText(Files.of(folder))
    for chat in CHATS:
        expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert list(ours.encode_chat(chat)) == expected
    for text in TEXTS:
        expected = theirs(text)["input_ids"]
        assert list(ours.encode(text)) == expected
        stream = ours.incremental()
        pieces = [*(stream.push(token) for token in expected), stream.finish()]
        assert "".join(pieces) == theirs.decode(
            expected, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def test_smollm2_chats_and_texts(smollm2: Path):
    assert_equal(smollm2)


@pytest.mark.parametrize("tag", [False, True], ids=["plain", "generation tag"])
def test_small_model_chats_and_texts(tmp_path: Path, tag: bool):
    template = (
        "{{ bos_token }}{% for m in messages %}\n"
        "{% if loop.first and m['role'] == 'system' %}\n"
        "[{{ m.content | trim }}]\n"
        "{% else %}\n"
        "<|im_start|>{{ m['role'] | upper }}\n"
        "GEN{{ m['content'] | tojson }}END{{ eos_token }}\n"
        "{% endif %}\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    begin, end = ("{% generation %}", "{% endgeneration %}") if tag else ("", "")
    template = template.replace("GEN", begin).replace("END", end)
    assert_equal(write_model(tmp_path / "model", template=template))
