"""Options that several commands share, so that they are called and checked alike everywhere.

Always: what is wrong with an option is said before anything is started.
"""

import ipaddress
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import platformdirs

from helix_p2p.node.config import NetworkConfig

C = TypeVar("C", bound=Callable[..., Any])

LOG_LEVELS = ("debug", "info", "warning", "error")

_MULTIADDR = re.compile(r"(/[a-z0-9-]+(/[^/\s,]+)?)+")
_PEER_AT_END = re.compile(r"/p2p/[1-9A-HJ-NP-Za-km-z]{40,60}$")


class MultiaddrsParam(click.ParamType[tuple[str, ...]]):
    """One or more multiaddrs, separated by commas or spaces.

    Args:
        with_peer: Each must name the peer that answers there (`…/p2p/12D3KooW…`).
    """

    name = "multiaddr"

    def __init__(self, *, with_peer: bool) -> None:
        self.with_peer = with_peer

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Check the form; whether anybody answers is found out by dialling."""
        if isinstance(value, tuple):
            return value
        addresses = tuple(re.split(r"[\s,]+", str(value).strip()))
        for address in addresses:
            if not _MULTIADDR.fullmatch(address):
                self.fail(
                    f"{address!r} is not a multiaddr; write for example /ip4/203.0.113.7/tcp/31470",
                    param,
                    ctx,
                )
            if self.with_peer and not _PEER_AT_END.search(address):
                self.fail(f"{address!r} does not end in /p2p/ and a peer id", param, ctx)
        return addresses


def network_options(default_port: int) -> Callable[[C], C]:
    """`--host`, `--port` and `--announce-maddrs`."""

    def decorate(command: C) -> C:
        for option in (
            click.option(
                "--announce-maddrs",
                type=MultiaddrsParam(with_peer=False),
                multiple=True,
                metavar="ADDR[,ADDR…]",
                help="Multiaddrs to tell others instead of those that are found.",
            ),
            click.option(
                "--port",
                type=click.IntRange(0, 65535),
                default=default_port,
                show_default="any free one" if default_port == 0 else True,
                help="TCP port to listen on.",
            ),
            click.option(
                "--host",
                default="0.0.0.0",  # noqa: S104 — a peer is meant to be reached
                show_default=True,
                metavar="IP",
                callback=_check_ip,
                help="Address to listen on; 127.0.0.1 keeps it on this machine.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def service_options(command: C) -> C:
    """`--log-level`, `--verbose` and `--json` of a command that runs until it is stopped."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print events as lines of JSON."),
        click.option(
            "--verbose", is_flag=True, help="Debug logs, and the trace when something fails."
        ),
        click.option(
            "--log-level",
            type=click.Choice(LOG_LEVELS, case_sensitive=False),
            default="warning",
            show_default=True,
            help="What to log on stderr.",
        ),
    ):
        command = option(command)
    return command


def answer_options(command: C) -> C:
    """`--json` and `--verbose` of a command that answers and ends."""
    command = click.option("--verbose", is_flag=True, help="Show the trace when something fails.")(
        command
    )
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def state_dir_option(role: str) -> Callable[[C], C]:
    """`--state-dir`, by default the XDG state folder of this role."""
    return click.option(
        "--state-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=lambda: platformdirs.user_state_path("helix-p2p") / role,
        show_default=f"helix-p2p/{role} in your XDG state folder",
        metavar="FOLDER",
        help="Keys and what must survive a restart; one folder per process.",
    )


def network_config(
    host: str,
    port: int,
    announce_maddrs: tuple[tuple[str, ...], ...],
    bootstrap: tuple[str, ...] = (),
) -> NetworkConfig:
    """What `network_options` gave; relays and hole punching are off on loopback."""
    return NetworkConfig(
        host=host,
        port=port,
        announce=tuple(address for group in announce_maddrs for address in group),
        bootstrap=bootstrap,
        behind_nat=not ipaddress.ip_address(host).is_loopback,
    )


def set_up_logging(log_level: str, *, verbose: bool) -> None:
    """Send helix-p2p's logs to stderr; other libraries speak up from warnings on."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("helix_p2p").setLevel("DEBUG" if verbose else log_level.upper())


def _check_ip(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not an IP address; write for example 0.0.0.0 or 127.0.0.1"
        ) from error
    return value
