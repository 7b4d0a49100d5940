"""Failures of the commands: one line, a fitting exit status, the trace only when asked for."""

import click
import pytest

from helix_p2p.cli.errors import most_telling, report, run_command
from helix_p2p.errors import Cancelled, ConfigError, NoRoute, PeerUnreachable


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (
            ConfigError("no such model", hint="name a folder"),
            2,
            "x: no such model (name a folder)\n",
        ),
        (NoRoute("no pipeline\n  covers layer 3"), 1, "x: no pipeline covers layer 3\n"),
        (click.UsageError("no such option"), 2, "x: no such option\n"),
        (KeyError("oops"), 1, "x: KeyError: 'oops' (this is a bug; --verbose shows the trace"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_each_failure_is_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error, "x", verbose=False) == status
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == (1 if line else 0)


def test_group_without_command_shows_its_help_page(capsys: pytest.CaptureFixture[str]) -> None:
    group = click.Group("x", commands=[click.Command("go", help="Go there.")])
    with pytest.raises(click.exceptions.NoArgsIsHelpError) as caught:
        group.main([], prog_name="x", standalone_mode=False)
    assert report(caught.value, "x", verbose=False) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Usage: x")
    assert "  go  Go there." in lines


def test_trace_comes_with_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(PeerUnreachable("gone"), "x", verbose=True) == 1
    said = capsys.readouterr().err
    assert "helix_p2p.errors.PeerUnreachable: gone" in said
    assert said.endswith("x: gone\n")


def test_group_of_errors_is_told_by_its_cause() -> None:
    cause = PeerUnreachable("no bootstrap answers")
    group = BaseExceptionGroup(
        "tasks", [Cancelled("stopped"), ExceptionGroup("inner", [ValueError("x"), cause])]
    )
    assert most_telling(group) is cause
    assert isinstance(
        most_telling(BaseExceptionGroup("", [cause, KeyboardInterrupt()])), KeyboardInterrupt
    )


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(None, 0), (3, 3), (ConfigError("bad"), 2), (BrokenPipeError(), 141), (SystemExit(5), 5)],
)
def test_command_ends_with_its_status(
    outcome: BaseException | int | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def act() -> int | None:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr("sys.argv", ["act"])
    monkeypatch.setattr("sys.stderr.close", lambda: None, raising=False)
    with pytest.raises(SystemExit) as ended:
        run_command(act, "act")
    assert ended.value.code == status
