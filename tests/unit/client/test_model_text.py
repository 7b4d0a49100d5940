import json
from pathlib import Path

import pytest

from helix_p2p.client.chat_template import ChatTemplate
from helix_p2p.client.model_text import ModelText
from helix_p2p.errors import InvalidRequest, ModelError
from tests.unit.client.small_models import CHATML, Files, write_model

HI = [{"role": "user", "content": "hello"}]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files.of(write_model(tmp_path))


def test_text_reads_back(files: Files):
    text = ModelText(files)
    assert text.decode(text.encode("hello world, 🦊")) == "hello world, 🦊"


def test_end_tokens_come_from_generation_config_first(files: Files):
    assert ModelText(files).eos == (2,)
    files.files["generation_config.json"] = b'{"eos_token_id": [2, 0, 2]}'
    assert ModelText(files).eos == (2, 0)
    del files.files["generation_config.json"]
    assert ModelText(files).eos == (0,)
    files.files["config.json"] = b'{"text_config": {"eos_token_id": 1}}'
    assert ModelText(files).eos == (1,)
    del files.files["config.json"]
    assert ModelText(files).eos == (2,)
    files.files["tokenizer_config.json"] = b"{}"
    assert ModelText(files).eos == ()


def test_chat_is_rendered_with_the_models_template(files: Files):
    text = ModelText(files)
    ids = text.encode_chat([{"role": "system", "content": "be kind"}, *HI])
    expected = (
        "<|im_start|>system\nbe kind<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids == text.encode(expected, add_special_tokens=False)
    assert ids[0] == 1


@pytest.mark.parametrize("where", ["chat_template.jinja", "chat_template.json", "named"])
def test_template_is_found_wherever_models_keep_it(tmp_path: Path, where: str):
    files = Files.of(write_model(tmp_path, template=None))
    if where == "chat_template.jinja":
        files.files[where] = CHATML.encode()
    elif where == "chat_template.json":
        files.files[where] = json.dumps({"chat_template": CHATML}).encode()
    else:
        named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
        files.files["tokenizer_config.json"] = json.dumps({"chat_template": named}).encode()
    assert len(ModelText(files).encode_chat(HI)) > 5


def test_model_without_a_template_says_so(tmp_path: Path):
    text = ModelText(Files.of(write_model(tmp_path, template=None)))
    with pytest.raises(ModelError, match="no chat template"):
        text.encode_chat(HI)
    assert text.encode_chat(HI, template="{{ messages[0].content }}") == text.encode("hello")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tokenizer.json", None, "no tokenizer.json"),
        ("tokenizer.json", b"{", "tokenizer.json is broken"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json is not JSON"),
        ("config.json", b"[1]", "config.json is not a JSON object"),
    ],
)
def test_broken_file_is_named(files: Files, name: str, data: bytes | None, message: str):
    if data is None:
        del files.files[name]
    else:
        files.files[name] = data
    with pytest.raises(ModelError, match=message):
        ModelText(files)


def test_lone_surrogate_is_an_invalid_request(files: Files):
    with pytest.raises(InvalidRequest, match="Unicode"):
        ModelText(files).encode("\ud800")


def test_template_uses_what_hugging_face_offers():
    source = (
        "{{ bos_token }}"
        "{%- for m in messages %}\n"
        "    {%- if m.role == 'skip' %}{% continue %}{% endif %}\n"
        "    {%- generation %}[{{ m.role }}:{{ m.content | trim }}]{% endgeneration %}\n"
        "{%- endfor %}\n"
        "{%- if tools %}{{ tools | tojson }}{% endif %}\n"
        "{{- strftime_now('%Y')[:2] }}{{ extra }}"
    )
    template = ChatTemplate(source, {"bos_token": "<s>"})
    text = template.render(
        [{"role": "skip", "content": "no"}, {"role": "user", "content": " <é> ", "name": None}],
        tools=[{"name": "f<é>"}],
        variables={"extra": "!"},
    )
    assert text == '<s>[user:<é>][{"name": "f<é>"}]20!'


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content.nothing.more }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ 1 + 'a' }}",
    ],
    ids=["own words", "undefined", "sandbox", "immutable", "type"],
)
def test_template_that_refuses_is_an_invalid_request(source: str):
    with pytest.raises(InvalidRequest):
        ChatTemplate(source).render(HI)


@pytest.mark.parametrize("messages", [[], ["hello"], [{"content": "x"}]])
def test_messages_that_are_none_are_refused(messages: list):
    with pytest.raises(InvalidRequest):
        ChatTemplate(CHATML).render(messages)


def test_broken_template_is_a_model_error():
    with pytest.raises(ModelError, match="template"):
        ChatTemplate("{% if %}")
