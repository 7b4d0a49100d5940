"""Shared options: checked before anything is started, with an example of what would be right."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from helix_p2p.cli.options import (
    MultiaddrsParam,
    network_config,
    network_options,
    service_options,
    state_dir_option,
)

PEER = "/ip4/203.0.113.7/tcp/31470/p2p/12D3KooWGMYMmN1RGUYjWaSV6P3XtnBjwnosnJGNMnttfVCRnd6g"


@click.command()
@network_options(default_port=31470)
@click.option("--bootstrap", type=MultiaddrsParam(with_peer=True), default=())
@state_dir_option("peer")
@service_options
def show(
    host: str,
    port: int,
    announce_maddrs: tuple[tuple[str, ...], ...],
    bootstrap: tuple[str, ...],
    state_dir: Path,
    log_level: str,
    verbose: bool,
    as_json: bool,
) -> None:
    """Show what was read."""
    click.echo(network_config(host, port, announce_maddrs, bootstrap))
    click.echo(f"{state_dir} {log_level} {verbose}")


def test_defaults_are_reachable_from_outside_and_state_is_in_xdg(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    shown = CliRunner().invoke(show, []).output
    assert "host='0.0.0.0', port=31470" in shown
    assert "behind_nat=True" in shown
    assert f"{tmp_path}/helix-p2p/peer warning False" in shown


def test_loopback_needs_no_relays() -> None:
    shown = CliRunner().invoke(show, ["--host", "127.0.0.1", "--port", "0"]).output
    assert "behind_nat=False" in shown


def test_addresses_come_one_by_one_or_in_one_go() -> None:
    shown = (
        CliRunner()
        .invoke(
            show,
            [
                *("--announce-maddrs", "/ip4/1.2.3.4/tcp/1,/dns4/x.example/tcp/2"),
                *("--announce-maddrs", "/ip6/::1/tcp/3"),
                *("--bootstrap", f"{PEER} {PEER}"),
            ],
        )
        .output
    )
    assert "('/ip4/1.2.3.4/tcp/1', '/dns4/x.example/tcp/2', '/ip6/::1/tcp/3')" in shown
    assert f"bootstrap=('{PEER}', '{PEER}')" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--host", "localhost"], "is not an IP address"),
        (["--port", "70000"], "70000"),
        (["--announce-maddrs", "1.2.3.4:80"], "is not a multiaddr"),
        (["--bootstrap", "/ip4/1.2.3.4/tcp/1"], "does not end in /p2p/"),
        (["--bootstrap", ""], "is not a multiaddr"),
        (["--log-level", "loud"], "loud"),
    ],
)
def test_what_is_wrong_is_said_at_once(arguments: list[str], complaint: str) -> None:
    refused = CliRunner().invoke(show, arguments)
    assert refused.exit_code == 2
    assert complaint in refused.output
