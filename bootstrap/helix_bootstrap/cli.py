"""The `helix-bootstrap` command: open a swarm, and invite people into it.

Always: options are checked before anything is started or written; what is heavy is imported by the
command that needs it, so `--help` answers at once.
"""

from pathlib import Path
from typing import Any

import click

from helix_p2p.cli.errors import run_command
from helix_p2p.cli.options import (
    MultiaddrsParam,
    answer_options,
    network_config,
    network_options,
    service_options,
    set_up_logging,
    state_dir_option,
)
from helix_p2p.types import MOST_CELLS

DEFAULT_PORT = 31470
"""Outside the ports that other LLM servers take; any other serves as well."""

ROLES = ("peer", "planner", "client")


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "HELIX_BOOTSTRAP",
    }
)
@click.version_option(package_name="helix-p2p", prog_name="helix-bootstrap")
def cli() -> None:
    """Open a swarm for one model and let peers and clients in.

    Every option can also be set in the environment, e.g. HELIX_BOOTSTRAP_RUN_PORT.
    """


@cli.command()
@click.option(
    "-m",
    "--model",
    required=True,
    metavar="FOLDER-OR-ID",
    help="What the swarm serves: a model's folder, or org/name on the Hugging Face hub.",
)
@click.option(
    "--public/--invite-only",
    default=False,
    help="Let anybody in, and call the swarm untrusted; by default an invite is needed.",
)
@click.option(
    "--invite-days",
    type=click.FloatRange(min=0, min_open=True, max=3650),
    default=30.0,
    show_default=True,
    help="How long the printed invites hold.",
)
@click.option(
    "--bootstrap",
    type=MultiaddrsParam(with_peer=True),
    multiple=True,
    metavar="ADDR[,ADDR…]",
    help="Other bootstrap nodes of the same swarm.",
)
@network_options(DEFAULT_PORT)
@state_dir_option("bootstrap")
@service_options
def run(
    model: str,
    public: bool,
    invite_days: float,
    bootstrap: tuple[tuple[str, ...], ...],
    host: str,
    port: int,
    announce_maddrs: tuple[tuple[str, ...], ...],
    state_dir: Path,
    log_level: str,
    verbose: bool,
    as_json: bool,
) -> None:
    """Run a bootstrap node until Ctrl-C.

    It prints the lines with which others join and chat.
    """
    from helix_bootstrap.service import serve
    from helix_p2p.node.config import BootstrapConfig

    set_up_logging(log_level, verbose=verbose)
    others = tuple(address for group in bootstrap for address in group)
    serve(
        BootstrapConfig(
            state_dir=state_dir,
            model=model,
            network=network_config(host, port, announce_maddrs, others),
            open_swarm=public,
            invite_days=invite_days,
        ),
        as_json=as_json,
    )


@cli.command()
@click.option(
    "--role",
    "roles",
    type=click.Choice(ROLES),
    multiple=True,
    help="What the holder may be; repeat for several. All of them by default.",
)
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True, max=3650),
    default=30.0,
    show_default=True,
    help="How long it holds.",
)
@state_dir_option("bootstrap")
@answer_options
def invite(roles: tuple[str, ...], days: float, state_dir: Path, as_json: bool, **_: Any) -> None:
    """Print a new invite; the bootstrap node may be running or not."""
    from helix_bootstrap.invites import print_invite

    print_invite(state_dir, roles or ROLES, days, as_json=as_json)


@cli.command()
@click.argument("number", type=click.IntRange(1, MOST_CELLS), required=False, metavar="[N]")
@click.option("--force", is_flag=True, help="Even if few peers come into each.")
@state_dir_option("bootstrap")
@answer_options
def cells(number: int | None, force: bool, state_dir: Path, as_json: bool, **_: Any) -> None:
    """Say how many cells the swarm has, or that it is to have N.

    A swarm of more than some five hundred peers does better in several cells of a few hundred, each
    with its own planner and plan. Peers that have to move do so within a quarter of an hour. The
    bootstrap node may be running or not.
    """
    from helix_bootstrap.cells import print_cells, set_cells

    if number is None:
        print_cells(state_dir, as_json=as_json)
    else:
        set_cells(state_dir, number, force=force, as_json=as_json)


@cli.command()
@click.argument("targets", nargs=-1, required=True, metavar="PEER|INVITE…")
@click.option("--undo", is_flag=True, help="Take them off the list again.")
@state_dir_option("bootstrap")
@answer_options
def revoke(targets: tuple[str, ...], undo: bool, state_dir: Path, as_json: bool, **_: Any) -> None:
    """Put peers, or all who came in by an invite, out of the swarm.

    A target is a peer's id (12D3KooW…), an invite (helix1…) or its id (16 hex digits). The
    bootstrap node may be running or not.
    """
    from helix_bootstrap.revocations import print_revoked

    print_revoked(state_dir, targets, undo=undo, as_json=as_json)


@cli.command()
@state_dir_option("bootstrap")
@answer_options
def revocations(state_dir: Path, as_json: bool, **_: Any) -> None:
    """List whom `revoke` put out."""
    from helix_bootstrap.revocations import print_revocations

    print_revocations(state_dir, as_json=as_json)


@cli.command()
@state_dir_option("bootstrap")
@answer_options
def status(state_dir: Path, as_json: bool, **_: Any) -> None:
    """Show the swarm as the bootstrap node on this machine sees it."""
    from helix_p2p.cli.control import ask_status
    from helix_p2p.cli.status import print_status

    print_status(ask_status(state_dir), as_json=as_json)


def main() -> None:
    """Entry point."""
    run_command(cli, "helix-bootstrap")
