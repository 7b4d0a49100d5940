"""A model's words: prompt to tokens, tokens to text, chat to prompt; without torch or transformers.

Reads the files that every Hugging Face model folder has: `tokenizer.json` (the `tokenizers`
library), `tokenizer_config.json` and `special_tokens_map.json` (special tokens, chat template),
`chat_template.jinja`, `generation_config.json` and `config.json` (end tokens).

Always: the same files give the same ids as transformers does with them; what is wrong with a file
is one `ModelError` that names it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tokenizers import Tokenizer

from helix_p2p.client.chat_template import ChatTemplate, Message
from helix_p2p.client.detokenizer import IncrementalText
from helix_p2p.errors import InvalidRequest, ModelError

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


class ModelFiles(Protocol):
    """Where a model's small files come from."""

    @property
    def origin(self) -> str:
        """For error messages: a folder, or the model's name."""

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None when the model has no such file."""


class ModelText:
    """Tokenizer, chat template and end tokens of one model.

    Args:
        files: The model's folder, or the copy that peers handed out.

    Raises:
        ModelError: A file is missing or broken.
    """

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        data = files.read("tokenizer.json")
        if data is None:
            raise ModelError(
                f"{files.origin} has no tokenizer.json",
                hint="save the model's fast tokenizer beside its weights",
            )
        try:
            self._tokenizer = Tokenizer.from_buffer(data)
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"{files.origin}: tokenizer.json is broken: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._config = self._json("tokenizer_config.json")
        self._special = self._special_tokens()
        self.eos = self._end_tokens()
        self._template: ChatTemplate | None = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """Token ids of a text."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest("the prompt is not valid Unicode text") from error
        return tuple(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def incremental(self) -> IncrementalText:
        """A decoder for one answer."""
        return IncrementalText(self.decode)

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> tuple[int, ...]:
        """Token ids of a conversation, ready for the model to answer.

        Args:
            messages: In order.
            tools: JSON schemas of functions that the model may call.
            template: Jinja source instead of the model's own template.
            variables: Further variables of the template.

        Raises:
            ModelError: The model has no chat template.
            InvalidRequest: The template does not take these messages.
        """
        if template is not None:
            chosen = ChatTemplate(template, self._special)
        else:
            if self._template is None:
                self._template = ChatTemplate(self._template_source(), self._special)
            chosen = self._template
        text = chosen.render(messages, tools=tools, variables=variables)
        return self.encode(text, add_special_tokens=False)

    # ── files ──────────────────────────────────────────────────────────────────────────────────

    def _json(self, name: str) -> dict[str, Any]:
        data = self._files.read(name)
        if data is None:
            return {}
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{self._files.origin}: {name} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ModelError(f"{self._files.origin}: {name} is not a JSON object")
        return value

    def _special_tokens(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in (self._json("special_tokens_map.json"), self._config):
            for name, value in source.items():
                text = value.get("content") if isinstance(value, dict) else value
                if isinstance(text, str) and (name in SPECIAL_TOKENS or name.endswith("_token")):
                    found[name] = text
        return found

    def _end_tokens(self) -> tuple[int, ...]:
        """As transformers' generate takes them: generation_config, else config, else tokenizer."""
        config = self._json("config.json")
        text_config = config.get("text_config")
        sources = [self._json("generation_config.json"), config]
        if isinstance(text_config, dict):
            sources.append(text_config)
        for source in sources:
            value = source.get("eos_token_id")
            ids = value if isinstance(value, list) else [value]
            if ids and all(type(token) is int and token >= 0 for token in ids):
                return tuple(dict.fromkeys(ids))
        end = self._special.get("eos_token")
        token = self._tokenizer.token_to_id(end) if end is not None else None
        return () if token is None else (token,)

    def _template_source(self) -> str:
        readers: tuple[Callable[[], object], ...] = (
            lambda: _text(self._files.read("chat_template.jinja")),
            lambda: self._json("chat_template.json").get("chat_template"),
            lambda: self._config.get("chat_template"),
        )
        for read in readers:
            source = read()
            if isinstance(source, list):  # several, by name
                by_name = {t.get("name"): t.get("template") for t in source if isinstance(t, dict)}
                source = by_name.get("default")
            if isinstance(source, str):
                return source
        raise ModelError(
            f"{self._files.origin} has no chat template",
            hint="it is no chat model: use generate, or pass a template",
        )


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", errors="replace")
