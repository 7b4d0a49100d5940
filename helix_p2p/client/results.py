"""What a generation is asked with, and what it gives back.

Always: values are checked before anything is sent; times are seconds on one monotonic clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypedDict

from helix_p2p.errors import InvalidRequest
from helix_p2p.session.client_values import Limits, Pipeline
from helix_p2p.session.messages import FinishReason, Sampling

DEFAULT_MAX_TOKENS = 512
STOP_STRINGS_LIMIT = 16
LAST_SEED = 2**63 - 1


class Options(TypedDict, total=False):
    """How to generate; each has a default.

    Attributes:
        max_tokens: Longest answer; by default 512, or what the context leaves.
        temperature: 0 (the default) is greedy.
        top_k: Keep this many best tokens; 0 keeps all.
        top_p: Keep the smallest set with at least this probability.
        repetition_penalty: > 1 makes tokens seen before less likely.
        seed: Repeats a random answer; drawn when absent.
        stop: The text ends before the first of these strings.
        ignore_eos: Go on to max_tokens whatever comes (benchmarks).
        trace: Say where each token's time went; see `TextStream.traces`.
        first_token_timeout_s: From the call to the first token.
        between_tokens_timeout_s: From one token to the next, failures of peers included.
        timeout_s: For the whole answer.
    """

    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    ignore_eos: bool
    trace: bool
    first_token_timeout_s: float | None
    between_tokens_timeout_s: float | None
    timeout_s: float | None


class ChatOptions(Options, total=False):
    """`Options`, and how the conversation becomes a prompt.

    Attributes:
        tools: JSON schemas of functions that the model may call.
        template: Jinja source instead of the model's own chat template.
        template_variables: Further variables for it.
    """

    tools: Sequence[Mapping[str, Any]] | None
    template: str | None
    template_variables: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Checked options."""

    max_tokens: int | None
    sampling: Sampling
    stop: tuple[str, ...]
    ignore_eos: bool
    trace: bool
    limits: Limits


def read_options(options: Mapping[str, Any], random: Random) -> Wanted:
    """Check options and fill in defaults.

    Args:
        options: Of `Options`; further ones are refused.
        random: Draws the seed when none is given.

    Raises:
        InvalidRequest: A value that no peer could serve.
    """
    unknown = sorted(set(options) - set(Options.__annotations__))
    if unknown:
        raise InvalidRequest(f"{unknown[0]} is no option of a generation")
    max_tokens = options.get("max_tokens")
    if max_tokens is not None:
        _integer("max_tokens", max_tokens, 1, 2**31)
    seed = options.get("seed")
    if seed is None:
        seed = random.randint(0, LAST_SEED)
    stop = options.get("stop") or ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > STOP_STRINGS_LIMIT or any(not isinstance(s, str) or not s for s in stops):
        raise InvalidRequest(f"stop takes at most {STOP_STRINGS_LIMIT} strings, none of them empty")
    sampling = Sampling(
        temperature=_number("temperature", options.get("temperature", 0.0), 0.0, 100.0),
        top_k=_integer("top_k", options.get("top_k", 0), 0, 2**31),
        top_p=_number("top_p", options.get("top_p", 1.0), 1e-6, 1.0),
        repetition_penalty=_number(
            "repetition_penalty", options.get("repetition_penalty", 1.0), 1e-3, 100.0
        ),
        seed=_integer("seed", seed, 0, LAST_SEED),
    )
    limits = Limits(
        first_token_s=_seconds("first_token_timeout_s", options),
        between_tokens_s=_seconds("between_tokens_timeout_s", options),
        total_s=_seconds("timeout_s", options),
    )
    ignore_eos, trace = (bool(options.get(name, False)) for name in ("ignore_eos", "trace"))
    return Wanted(max_tokens, sampling, stops, ignore_eos, trace, limits)


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidRequest(f"{name} is a number from {low:g} to {high:g}, not {value!r}")
    return float(value)


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(f"{name} is a whole number from {low} to {high}, not {value!r}")
    return value


def _seconds(name: str, options: Mapping[str, Any]) -> float | None:
    value = options.get(name)
    return None if value is None else _number(name, value, 1e-3, 1e9)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer as it comes; prints as its text.

    Attributes:
        text: Whole characters; empty while a character or a stop string is not yet certain.
        tokens: Token ids that came.
    """

    text: str
    tokens: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Usage:
    """What a generation took.

    Attributes:
        prompt_tokens: Length of the prompt.
        completion_tokens: Tokens generated, an end token included.
        first_token_s: From the call to the first token (TTFT); None if there was none.
        total_s: From the call to the end.
        tokens_per_s: After the first token; None for answers too short to tell.
        restarts: How often the generation went on at another entry peer.
    """

    prompt_tokens: int
    completion_tokens: int
    first_token_s: float | None
    total_s: float
    tokens_per_s: float | None
    restarts: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer; prints as its text.

    Attributes:
        text: Ends before the stop string, if one was found.
        tokens: All token ids that came, an end token included.
        finish_reason: `stop` (an end token or a stop string) or `length`.
        stop: The stop string that was found.
        usage: What it took.
        pipeline: Peers that made the last tokens, with their layers.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    stop: str | None
    usage: Usage
    pipeline: Pipeline

    def __str__(self) -> str:
        return self.text
