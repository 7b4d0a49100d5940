"""What a bootstrap node tells others of itself."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from helix_bootstrap.cli import cli
from helix_bootstrap.service import useful_addresses
from helix_p2p.errors import ModelError

HOME = "/ip4/127.0.0.1/tcp/1/p2p/x"
HOME6 = "/ip6/::1/tcp/1/p2p/x"
LAN = "/ip4/192.168.1.5/tcp/1/p2p/x"
NAMED = "/dns4/swarm.example/tcp/1/p2p/x"


@pytest.mark.parametrize(
    ("addresses", "useful"),
    [
        ((HOME, LAN, HOME6, NAMED), (LAN, NAMED)),
        ((HOME, HOME6), (HOME, HOME6)),
        ((), ()),
    ],
)
def test_invites_name_addresses_that_lead_here_from_elsewhere(
    addresses: tuple[str, ...], useful: tuple[str, ...]
) -> None:
    assert useful_addresses(addresses) == useful


def test_start_that_fails_was_announced_and_leaves_nothing_behind(tmp_path: Path) -> None:
    state = tmp_path / "state"
    words = ["run", f"--model={tmp_path / 'none'}", "--host=127.0.0.1", "--port=0"]
    ended = CliRunner().invoke(cli, [*words, f"--state-dir={state}"])
    assert isinstance(ended.exception, ModelError)
    assert "reading the model" in ended.output
    assert not state.exists()
