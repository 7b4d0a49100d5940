"""A model's own chat template, rendered the way Hugging Face's templates expect.

Chat templates are Jinja programs that come with a model, so they are somebody else's code: they run
in Jinja's immutable sandbox, without files or attributes of Python objects. What they may use
(`raise_exception`, `strftime_now`, `tojson`, `break` and `continue`, `{% generation %}`, trimmed
blocks, the special tokens as variables) is documented under "Chat templates" by transformers.

Always: a template's complaint about the messages is an `InvalidRequest` in the template's words.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from helix_p2p.errors import InvalidRequest, ModelError

Message = Mapping[str, Any]
"""`{"role": …, "content": …}`, and what else the model's template knows."""


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks answers for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja source.
        variables: The tokenizer's special tokens by name, e.g. `bos_token`.

    Raises:
        ModelError: The source is not a template.
    """

    def __init__(self, source: str, variables: Mapping[str, str] | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._variables = dict(variables or {})
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"the model's chat template is broken: {error}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt text of a conversation.

        Args:
            messages: In order; keys whose value is None count as absent.
            tools: JSON schemas of functions that the model may call.
            add_generation_prompt: End with the beginning of an answer.
            variables: Further variables of this template.

        Raises:
            InvalidRequest: The template does not take these messages.
        """
        if not messages:
            raise InvalidRequest("a chat needs at least one message")
        for message in messages:
            if not isinstance(message, Mapping) or "role" not in message:
                raise InvalidRequest("a message is a mapping with a role and a content")
        plain = [{k: v for k, v in message.items() if v is not None} for message in messages]
        try:
            return self._template.render(
                {
                    **self._variables,
                    **(variables or {}),
                    "messages": plain,
                    "tools": list(tools) if tools is not None else None,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidRequest(f"the model's chat template refuses this chat: {error}") from error


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which is wrong in a prompt.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 - transformers' name
    return datetime.datetime.now().astimezone().strftime(format)
