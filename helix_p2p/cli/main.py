"""The `helix-p2p` command: a thin group whose subcommands are imported only when they are run.

Always: `helix-p2p --help` imports click and this file alone, so that it answers at once; every
failure we know of ends as one line on stderr and a non-zero exit status (1: it could not be done,
2: it was asked for in a way we do not understand, 130: the person stopped it).
"""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from types import MappingProxyType

import click

from helix_p2p.errors import HelixError, InputError

SUBCOMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "chat": ("helix_p2p.cli.chat:chat", "Talk with a swarm's model in the terminal."),
        "generate": ("helix_p2p.cli.chat:generate", "Complete one prompt and print the answer."),
        "plan": ("helix_p2p.cli.plan:plan", "Plan who serves which layers, with a proof."),
    }
)
"""Name → (module:attribute, one line of help)."""


class LazyGroup(click.Group):
    """A click group that imports a subcommand's module only when the subcommand is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Names in the order of the help page."""
        return sorted(SUBCOMMANDS)

    def get_command(  # click's signature
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        """Import and return one subcommand."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module, attribute = SUBCOMMANDS[cmd_name][0].split(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUBCOMMANDS[name][1]) for name in self.list_commands(ctx)])


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: object) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"helix-p2p {version('helix-p2p')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`helix-peer` lends a GPU to a swarm, `helix-bootstrap` runs the way into one.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Use and plan helix-p2p swarms: large language models on volunteers' GPUs."""


def main() -> None:
    """Entry point: run the command and turn every known failure into one line."""
    try:
        status = cli.main(prog_name="helix-p2p", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _complain(error.format_message(), _hint(error))
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except HelixError as error:
        _complain(error.message, error.hint)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except BrokenPipeError:
        # The reader of our output (`head`, a pager) left: nothing to say. Without this the
        # interpreter would try to flush stdout on exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(status if isinstance(status, int) else 0)


def _hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context is not None else None


def _complain(message: str, hint: str | None) -> None:
    click.echo(f"helix-p2p: {message}{f' ({hint})' if hint else ''}", err=True)
