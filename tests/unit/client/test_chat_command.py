import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import helix_p2p
from helix_p2p.cli.chat import chat, generate
from helix_p2p.client.swarm import Swarm
from helix_p2p.errors import Busy, InputError, InviteError, ModelError, PromptTooLong
from helix_p2p.identity import Identity
from helix_p2p.net.transport import Transport
from tests.unit.client.fake_swarm import FakeSwarm, HomeTransport, answer_to

ADDRESS = f"/memory/0/p2p/{Identity(bytes([1] * 32)).peer_id}"
Run = Callable[..., Result]


@pytest.fixture
def fake(tmp_path: Path) -> FakeSwarm:
    return FakeSwarm(tmp_path / "model")


@pytest.fixture
def run(fake: FakeSwarm, tmp_path: Path, monkeypatch) -> Iterator[Run]:
    async def start(self: Swarm) -> Transport:
        home = HomeTransport(fake, Identity(bytes([77] * 32)).peer_id)
        self._cleanup.push_async_callback(home.close)
        return home

    monkeypatch.setattr(Swarm, "_start_libp2p", start)
    monkeypatch.setattr("helix_p2p.client.model_files.default_cache", lambda: tmp_path / "cache")

    def invoke(command: click.Command, *arguments: str, **options: object) -> Result:
        return CliRunner().invoke(command, arguments, **options)  # type: ignore[arg-type]

    logger = logging.getLogger("helix_p2p")
    level = logger.level
    yield invoke
    logger.setLevel(level)


def test_generate_prints_the_text_and_the_figures_apart(run: Run, fake: FakeSwarm):
    result = run(generate, ADDRESS, "--prompt", "hello", "--max-tokens", "8")
    assert result.exit_code == 0, result.output
    text = result.stdout.removesuffix("\n")
    [asked] = fake.peers[0].asked
    assert fake.peers[0].asked[0].max_new_tokens == 8
    assert len(answer_to(asked.prompt, 8)) == 8
    assert text
    assert "8 tokens" in result.stderr
    assert "first after" in result.stderr
    assert "pipeline …" in result.stderr
    assert "[0, 4)" in result.stderr


def test_json_lines_hold_pieces_and_the_completion(run: Run, fake: FakeSwarm):
    result = run(generate, ADDRESS, "--prompt", "hello", "--max-tokens", "4", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["event"] for line in lines[:-1]] == ["piece"] * (len(lines) - 1)
    end = lines[-1]
    assert end["event"] == "completion"
    assert "".join(line["text"] for line in lines[:-1]) == end["text"]
    assert end["finish_reason"] == "length"
    assert end["usage"]["completion_tokens"] == 4
    assert end["pipeline"] == [{"peer": fake.peers[0].peer_id, "start": 0, "end": 4}]
    assert result.stderr == ""


def test_options_reach_the_peer(run: Run, fake: FakeSwarm):
    options = "--temperature 0.5 --top-k 7 --top-p 0.9 --repetition-penalty 1.1 --seed 3"
    run(
        chat,
        ADDRESS,
        "--prompt",
        "hi",
        "--system",
        "be kind",
        "--max-tokens",
        "2",
        *options.split(),
    )
    [asked] = fake.peers[0].asked
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 7, 0.9)
    assert (sampling.repetition_penalty, sampling.seed) == (1.1, 3)


def test_invite_may_stand_in_the_environment(run: Run):
    result = run(chat, "--prompt", "hi", "--max-tokens", "2", env={"HELIX_INVITE": ADDRESS})
    assert result.exit_code == 0, result.output


def test_prompt_may_be_piped_in(run: Run, fake: FakeSwarm):
    result = run(chat, ADDRESS, "--max-tokens", "2", input="what is piped\n")
    assert result.exit_code == 0, result.output
    assert len(fake.peers[0].asked) == 1


def test_conversation_keeps_its_history_until_ctrl_d(run: Run, fake: FakeSwarm, monkeypatch):
    said = iter(["hello", "", "more"])

    def read(_prompt: str) -> str:
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("helix_p2p.cli.chat._person_types", lambda: True)
    result = run(chat, ADDRESS, "--max-tokens", "3")
    assert result.exit_code == 0, result.output
    first, second = fake.peers[0].asked
    assert len(second.prompt) > len(first.prompt)
    assert second.prompt[: len(first.prompt)] == first.prompt


def test_failed_answer_does_not_end_the_conversation(run: Run, fake: FakeSwarm, monkeypatch):
    said = iter(["x" * 3000, "hello"])

    def read(_prompt: str) -> str:
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("helix_p2p.cli.chat._person_types", lambda: True)
    result = run(chat, ADDRESS, "--max-tokens", "3")
    assert result.exit_code == 0, result.output
    assert "context" in result.stderr
    assert len(fake.peers[0].asked) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["helix1oops", "--prompt", "x"], InviteError, "invite"),
        ([ADDRESS, "--prompt", " "], InputError, "empty"),
        ([ADDRESS, "--prompt", "x", "--max-tokens", "1000"], PromptTooLong, "context"),
    ],
)
def test_failures_are_typed_for_the_one_line(
    run: Run, arguments: list[str], error: type[Exception], words: str
):
    result = run(generate, *arguments)
    assert isinstance(result.exception, error)
    assert words in str(result.exception)


def test_busy_swarm_fails(run: Run, fake: FakeSwarm, monkeypatch):
    add = fake.add

    async def add_busy(*arguments: object) -> object:
        peer = await add(*arguments)  # type: ignore[arg-type]
        peer.refusal = Busy("full", retry_after_s=0.01)
        return peer

    monkeypatch.setattr(fake, "add", add_busy)
    assert isinstance(run(generate, ADDRESS, "--prompt", "x").exception, Busy)


def test_help_and_import_are_quick_and_import_nothing_heavy():
    code = (
        "import sys, helix_p2p; "
        "assert not {'asyncio', 'msgspec'} & set(sys.modules), 'import is not lazy'; "
        "import helix_p2p.cli.chat; "
        "assert not {'asyncio', 'tokenizers', 'jinja2', 'torch', 'hivemind'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def test_every_public_name_can_be_imported():
    for name in helix_p2p.__all__:
        assert getattr(helix_p2p, name).__name__ == name
    assert set(helix_p2p.__all__) <= set(dir(helix_p2p))
    assert set(helix_p2p._HOME) == set(helix_p2p.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = helix_p2p.nothing


def test_client_needs_neither_torch_nor_transformers_nor_hivemind():
    code = (
        "import sys, helix_p2p; helix_p2p.Swarm, helix_p2p.SyncSwarm; "
        "assert not {'torch', 'transformers', 'hivemind', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


@pytest.mark.parametrize("command", [chat, generate])
def test_wrong_way_in_is_said_before_a_prompt_is_read(run: Run, command: click.Command):
    arguments = ["nope"] if command is chat else ["nope", "--prompt", "-"]
    result = run(command, *arguments, input="")
    assert isinstance(result.exception, InviteError)


def test_missing_model_folder_is_said_before_a_prompt_is_read(run: Run, tmp_path: Path):
    result = run(chat, ADDRESS, "--model", str(tmp_path / "none"), input="")
    assert isinstance(result.exception, ModelError)


def test_answer_cannot_drive_the_terminal(run: Run, monkeypatch):
    monkeypatch.setattr(
        "helix_p2p.client.detokenizer.IncrementalText.push", lambda *_: "\x1b[2Jhi\x07\n"
    )
    result = run(generate, ADDRESS, "--prompt", "hello", "--max-tokens", "2")
    assert "\x1b" not in result.stdout
    assert "[2Jhi" in result.stdout
