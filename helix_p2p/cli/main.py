"""The `helix-p2p` command: a thin group whose subcommands are imported only when they are run.

Always: `helix-p2p --help` imports click and this file alone, so that it answers at once; every
subcommand's name stands here with its one line of help.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from types import MappingProxyType

import click

from helix_p2p.cli.errors import run_command

SUBCOMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "chat": ("helix_p2p.cli.chat:chat", "Talk with a swarm's model in the terminal."),
        "generate": ("helix_p2p.cli.chat:generate", "Complete one prompt and print the answer."),
        "compare": ("helix_p2p.cli.compare:compare", "Simulate side by side, with a report."),
        "plan": ("helix_p2p.cli.plan:plan", "Plan who serves which layers, with a proof."),
        "simulate": ("helix_p2p.cli.simulate:simulate", "Run a scenario in virtual time."),
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
    invoke_without_command=True,
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
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Use and plan helix-p2p swarms: large language models on volunteers' GPUs."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point: run the command; every known failure is one line (see `cli.errors`)."""
    run_command(cli, "helix-p2p")
