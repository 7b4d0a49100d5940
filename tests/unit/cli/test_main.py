import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from helix_p2p.cli import main as main_module
from helix_p2p.cli.main import SUBCOMMANDS, cli, main
from helix_p2p.errors import ConfigError, SwarmTooSmall


def test_help_imports_no_solver() -> None:
    code = (
        "import sys, helix_p2p.cli.main as m\n"
        "sys.argv = ['helix-p2p', '--help']\n"
        "try: m.main()\n"
        "finally: print(sorted({n.split('.')[0] for n in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "plan" in done.stdout
    for heavy in ("numpy", "scipy", "pulp", "highspy", "networkx", "torch", "hivemind", "rich"):
        assert f"'{heavy}'" not in done.stderr


def test_every_subcommand_is_listed_with_its_help() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    for name, (_, text) in SUBCOMMANDS.items():
        assert name in shown
        assert text in shown


def test_unknown_subcommand_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["helix-p2p", "plam"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.count("\n") == 1
    assert "plam" in said


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("peers[0].memory: no unit", hint="say `24 GB`"), 2),
        (SwarmTooSmall(missing_bytes=3_000_000_000), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_known_failure_is_one_line_with_its_status(
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def plan() -> None:
        raise error

    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda *_: plan)
    monkeypatch.setattr(sys, "argv", ["helix-p2p", "plan"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == status
    assert capsys.readouterr().err.count("\n") <= 1
