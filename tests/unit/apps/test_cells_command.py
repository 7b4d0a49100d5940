"""`helix-bootstrap cells`: what it signs, and what it refuses to."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from helix_bootstrap import cells
from helix_bootstrap.cli import cli
from helix_bootstrap.invites import SwarmCard, write_card
from helix_p2p.errors import ConfigError
from helix_p2p.membership.cell_count import open_cells
from helix_p2p.membership.credentials import open_swarm_id_of
from helix_p2p.node.state import StateDir
from helix_p2p.node.status import CellStatus, MemberStatus, NodeStatus
from tests.unit.apps.cards import ADDRESS


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["cells", *arguments, "--state-dir", str(folder)])


@pytest.mark.usefixtures("swarm")
def test_swarm_of_which_nothing_was_said_has_one(tmp_path: Path) -> None:
    assert run(tmp_path).stdout == "1 cell\n"
    with StateDir(tmp_path) as held:
        assert held.cells() is None


def status(peers: int, elsewhere: int = 0) -> dict[str, Any]:
    """Of a running node."""
    return json.loads(
        msgspec.json.encode(
            NodeStatus(
                "bootstrap",
                "b",
                "s",
                True,
                "tiny",
                "",
                8,
                "running",
                members=tuple(
                    MemberStatus(str(number), "serving", memory_bytes=10**9)
                    for number in range(peers)
                ),
                elsewhere=(CellStatus(1, elsewhere, elsewhere, elsewhere * 10**9),),
            )
        )
    )


@pytest.mark.usefixtures("swarm")
def test_number_that_holds_already_is_said_again_only_where_nobody_can_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another bootstrap node may have said something else since."""
    first = json.loads(run(tmp_path, "3", "--json").stdout)["serial"]
    again = json.loads(run(tmp_path, "3", "--json").stdout)["serial"]
    assert again > first
    monkeypatch.setattr(cells, "ask_status", lambda _folder: status(6))
    answer = run(tmp_path, "3")
    assert (answer.stdout, answer.stderr) == ("3 cells\n", "nothing changed\n")
    assert json.loads(run(tmp_path, "3", "--json").stdout)["serial"] == again


@pytest.mark.usefixtures("swarm")
def test_cells_that_would_be_tiny_are_refused_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "ask_status", lambda _folder: status(100, 400))
    assert "each cell then has about 250" in run(tmp_path, "2").stderr
    error = run(tmp_path, "25").exception
    assert isinstance(error, ConfigError)
    assert "20.0 in each, with 20.0 GB" in str(error)
    assert run(tmp_path).stdout == "2 cells\n"
    assert run(tmp_path, "25", "--force").exit_code == 0
    assert run(tmp_path).stdout == "25 cells\n"


def test_number_is_signed_by_the_root_and_the_last_one_holds(
    tmp_path: Path, swarm: SwarmCard
) -> None:
    first = run(tmp_path, "4")
    assert first.stdout == "4 cells\n"
    assert "no bootstrap node runs here now" in first.stderr
    serials = [json.loads(run(tmp_path, number, "--json").stdout)["serial"] for number in "4523"]
    assert serials == sorted(serials)
    assert len(set(serials)) == 4
    assert run(tmp_path).stdout == "3 cells\n"
    with StateDir(tmp_path) as held:
        record, root = held.cells(), held.swarm_key()
    assert record is not None
    assert open_cells(record, swarm.swarm, root.public_key).cells == 3


@pytest.mark.usefixtures("swarm")
@pytest.mark.parametrize("number", ["0", "-1", "257", "many"])
def test_number_that_no_swarm_has_is_refused(tmp_path: Path, number: str) -> None:
    answer = run(tmp_path, "--", number)
    assert answer.exit_code == 2
    assert "1<=x<=256" in answer.stderr or "not a valid integer" in answer.stderr


def test_open_swarm_and_a_folder_without_a_key_are_refused(
    tmp_path: Path, swarm: SwarmCard
) -> None:
    (tmp_path / "swarm.key").unlink()
    assert isinstance(run(tmp_path, "2").exception, ConfigError)
    card = SwarmCard(open_swarm_id_of("m"), True, (ADDRESS,), "tiny", swarm.manifest_hash)
    write_card(tmp_path, card)
    error = run(tmp_path, "2").exception
    assert isinstance(error, ConfigError)
    assert "one cell" in str(error)
    assert isinstance(run(tmp_path / "nowhere").exception, ConfigError)
