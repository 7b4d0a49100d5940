"""`helix-p2p chat` and `helix-p2p generate`: a swarm's model in the terminal.

The answer goes to stdout as it comes; everything else (progress, figures, errors) goes to stderr,
so that `helix-p2p generate … > file` holds the text alone.

Always: Ctrl-C stops an answer and, where a conversation goes on, only that; Ctrl-D, SIGTERM or a
closed terminal end the conversation; whatever way the command ends, nothing that it started stays
behind.
"""

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from helix_p2p.cli.errors import EXIT_INTERRUPTED, one_line
from helix_p2p.cli.shown import harmless
from helix_p2p.errors import HelixError, InputError

if TYPE_CHECKING:
    from helix_p2p.client.results import Completion
    from helix_p2p.client.sync import SyncSwarm, SyncTextStream

C = TypeVar("C", bound=Callable[..., Any])
Message = dict[str, str]

GENERATION_OPTIONS = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "seed",
    "stop",
    "ignore_eos",
    "trace",
    "timeout_s",
)


def _options(command: C) -> C:
    for option in reversed(
        (
            click.argument("invite", envvar="HELIX_INVITE", metavar="INVITE|ADDR"),
            click.option(
                "--model",
                type=click.Path(path_type=Path),
                metavar="FOLDER",
                help="Take the tokenizer from here; otherwise the swarm hands it out.",
            ),
            click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer."),
            click.option(
                "--temperature",
                type=click.FloatRange(0, 100),
                default=0.0,
                show_default=True,
                help="0 is greedy; 0.7 varies.",
            ),
            click.option("--top-k", type=click.IntRange(min=0), help="Keep the best K tokens."),
            click.option(
                "--top-p",
                type=click.FloatRange(0, 1, min_open=True),
                help="Keep the likeliest tokens that together have this probability.",
            ),
            click.option(
                "--repetition-penalty",
                type=click.FloatRange(0, 100, min_open=True),
                help="Above 1 makes tokens seen before less likely.",
            ),
            click.option("--seed", type=click.IntRange(min=0), help="Repeats a random answer."),
            click.option(
                "--stop", multiple=True, metavar="TEXT", help="End before TEXT; may be repeated."
            ),
            click.option(
                "--ignore-eos", is_flag=True, help="Go on to --max-tokens, for benchmarks."
            ),
            click.option(
                "--trace", is_flag=True, help="Say at the end where each token's time went."
            ),
            click.option(
                "--timeout",
                "timeout_s",
                type=click.FloatRange(min=0, min_open=True),
                metavar="SECONDS",
                help="For the whole answer.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print lines of JSON."),
            click.option(
                "--verbose", is_flag=True, help="Debug logs, and the trace when something fails."
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@_options
@click.option("--prompt", help="Ask this once and end; `-` reads standard input.")
@click.option("--system", help="How the model is to behave.")
def chat(prompt: str | None, system: str | None, invite: str, **options: Any) -> None:
    """Talk with the model of a swarm.

    INVITE is the line that `helix-bootstrap` printed (also from HELIX_INVITE); in an open swarm the
    multiaddr of any member will do. Without --prompt it is a conversation: Ctrl-C stops an answer,
    Ctrl-D ends.
    """
    _check_way_in(invite, options["model"])
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    asked = _read_prompt(prompt) if prompt is not None else None
    if asked is None and not _person_types():
        asked = _read_prompt("-")
    with _connected(invite, options) as swarm:
        talk = _Talk(swarm, options)
        if asked is not None:
            messages.append({"role": "user", "content": asked})
            talk.show(swarm.chat_stream(messages, **talk.generation))
        else:
            talk.converse(messages)


@click.command()
@_options
@click.option("--prompt", required=True, help="The text to go on from; `-` reads standard input.")
def generate(prompt: str, invite: str, **options: Any) -> None:
    """Complete a text with the model of a swarm, without a chat template.

    INVITE is the line that `helix-bootstrap` printed (also from HELIX_INVITE); in an open swarm the
    multiaddr of any member will do.
    """
    _check_way_in(invite, options["model"])
    text = _read_prompt(prompt)
    with _connected(invite, options) as swarm:
        talk = _Talk(swarm, options)
        talk.show(swarm.stream(text, **talk.generation))


class _Talk:
    """Shows answers, one after another."""

    def __init__(self, swarm: "SyncSwarm", options: dict[str, Any]) -> None:
        self._swarm = swarm
        self._as_json: bool = options["as_json"]
        given = {name: options[name] for name in GENERATION_OPTIONS}
        self._trace: bool = options["trace"]
        self.generation: dict[str, Any] = {k: v for k, v in given.items() if v not in (None, ())}

    def show(self, stream: "SyncTextStream") -> "Completion":
        """Print an answer as it comes, then what it took."""
        view = self._swarm.swarm.view
        if not view.covered:
            click.secho(f"waiting for the swarm: {one_line(view.describe())}", dim=True, err=True)
        with stream:
            for piece in stream:
                if self._as_json:
                    _print_json({"event": "piece", "text": piece.text, "tokens": piece.tokens})
                else:
                    click.echo(harmless(piece.text), nl=False)
        completion = stream.completion
        if self._as_json:
            _print_json({"event": "completion", **_as_data(completion)})
        else:
            click.echo()
            click.secho(_figures(completion), dim=True, err=True)
        if self._trace:
            _show_trace(stream, as_json=self._as_json)
        return completion

    def converse(self, messages: list[Message]) -> None:
        """Question and answer until Ctrl-D."""
        _enable_line_editing()
        name = self._swarm.swarm.manifest.name
        click.secho(f"{name}: Ctrl-C stops an answer, Ctrl-D ends.", dim=True, err=True)
        while True:
            try:
                text = input("\n> ").strip()
            except EOFError:
                click.echo(err=True)
                return
            except KeyboardInterrupt:
                click.secho("\nCtrl-D ends.", dim=True, err=True)
                continue
            if text:
                self._exchange(messages, text)

    def _exchange(self, messages: list[Message], text: str) -> None:
        """One question; an answer that fails or is stopped does not end the conversation."""
        question = {"role": "user", "content": text}
        stream = None
        try:
            stream = self._swarm.chat_stream([*messages, question], **self.generation)
            answer = self.show(stream).text
        except KeyboardInterrupt:
            click.secho("\nstopped", dim=True, err=True)
            answer = stream.text if stream is not None else ""
        except HelixError as error:
            click.secho(f"\n{one_line(str(error))}", fg="red", err=True)
            return
        if answer:
            messages += [question, {"role": "assistant", "content": answer}]


@contextmanager
def _connected(invite: str, options: dict[str, Any]) -> Iterator["SyncSwarm"]:
    """Connect, and leave nothing behind whatever way the command ends."""
    _set_up_logging(verbose=options["verbose"])
    former = {it: signal.getsignal(it) for it in (signal.SIGTERM, signal.SIGHUP)}
    for it, handler in former.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(it, _end)
    try:
        from helix_p2p.client.sync import SyncSwarm

        model: Path | None = options["model"]
        with _waiting("connecting…"):
            swarm = SyncSwarm.connect(invite, model=model)
        with swarm:
            yield swarm
    finally:
        for it, handler in former.items():
            signal.signal(it, handler)


@contextmanager
def _waiting(text: str) -> Iterator[None]:
    """Say what takes time where a person looks, and take it back."""
    if not sys.stderr.isatty():
        yield
        return
    click.secho(text, dim=True, nl=False, err=True)
    try:
        yield
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def _check_way_in(invite: str, model: Path | None) -> None:
    """What could lead nowhere is said before anybody types or pipes a prompt."""
    from helix_p2p.client.model_files import check_folder
    from helix_p2p.client.way_in import read_way_in

    read_way_in(invite, time.time())
    if model is not None:
        check_folder(model)


def _person_types() -> bool:
    return sys.stdin.isatty()


def _read_prompt(prompt: str) -> str:
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise InputError("the prompt is empty", hint="give a text, or - and pipe one in")
    return text


def _figures(completion: "Completion") -> str:
    usage = completion.usage
    parts = [f"{usage.completion_tokens} tokens"]
    if usage.first_token_s is not None:
        parts.append(f"first after {usage.first_token_s:.2f} s")
    if usage.tokens_per_s is not None:
        parts.append(f"{usage.tokens_per_s:.1f} tokens/s")
    if completion.pipeline:
        stages = " → ".join(f"…{peer[-6:]} {layers}" for peer, layers in completion.pipeline)
        parts.append(f"pipeline {stages}")
    if usage.restarts:
        times = "once" if usage.restarts == 1 else f"{usage.restarts} times"
        parts.append(f"went on elsewhere {times}")
    return " · ".join(parts)


def _as_data(completion: "Completion") -> dict[str, Any]:
    usage = completion.usage
    return {
        "text": completion.text,
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
        "stop": completion.stop,
        "usage": {name: getattr(usage, name) for name in usage.__slots__},
        "pipeline": [
            {"peer": peer, "start": layers.start, "end": layers.end}
            for peer, layers in completion.pipeline
        ],
    }


def _show_trace(stream: "SyncTextStream", *, as_json: bool) -> None:
    from helix_p2p.client.tracing import lines, summarise

    summary = summarise(stream.traces)
    if as_json:
        _print_json({"event": "trace", "summary": summary and asdict(summary)})
    elif summary is None:
        click.secho("too few tokens for a trace", dim=True, err=True)
    else:
        click.secho("\n".join(lines(summary)), dim=True, err=True)


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401 - gives input() history and editing
    except ImportError:
        return


def _end(number: int, _frame: object) -> None:
    # Python's default skips every `finally`, and libp2p's daemon would outlive us.
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise SystemExit(EXIT_INTERRUPTED)


def _set_up_logging(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("helix_p2p").setLevel(logging.DEBUG if verbose else logging.ERROR)
