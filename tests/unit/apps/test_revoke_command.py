"""`helix-bootstrap revoke` and `revocations`: what they sign, and what they refuse to."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from helix_bootstrap.cli import cli
from helix_bootstrap.invites import SwarmCard, new_invite, write_card
from helix_p2p.errors import ConfigError, HelixError, InviteError
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.credentials import open_swarm_id_of, swarm_id_of
from helix_p2p.membership.revocations import open_revocations, revoke
from helix_p2p.node.state import StateDir
from tests.unit.apps.cards import ADDRESS

PEER = Identity(b"a" * 32).peer_id
OTHER = Identity(b"b" * 32).peer_id


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--state-dir", str(folder)])


def refused(folder: Path, *arguments: str) -> HelixError:
    error = run(folder, *arguments).exception
    assert isinstance(error, HelixError)
    return error


def test_list_is_signed_by_the_root_and_grows(tmp_path: Path, swarm: SwarmCard) -> None:
    invite = new_invite(tmp_path, swarm, days=1, now_unix_s=0.0)
    granted = invite.granted()
    assert granted is not None
    first = run(tmp_path, "revoke", PEER)
    assert first.stdout == "1 revoked; the list names 1\n"
    assert "no bootstrap node runs here now" in first.stderr
    said = json.loads(run(tmp_path, "revoke", OTHER, invite.to_text(), "--json").stdout)
    assert said["peers"] == sorted([PEER, OTHER])
    assert said["invite_ids"] == [granted.invite_id]
    with StateDir(tmp_path) as held:
        record = held.revocations()
        assert record is not None
        kept = open_revocations(record, swarm.swarm, held.swarm_key().public_key)
    assert kept.names == {PEER, OTHER, granted.invite_id}


def test_serial_rises_with_each_change_and_only_then(tmp_path: Path, swarm: SwarmCard) -> None:
    def serial(*arguments: str) -> int:
        return int(json.loads(run(tmp_path, *arguments, "--json").stdout)["serial"])

    serials = [
        serial("revoke", PEER),
        serial("revoke", OTHER),
        serial("revoke", PEER, "--undo"),
    ]
    assert serials == sorted(set(serials))
    assert serial("revoke", OTHER) == serials[-1]
    assert run(tmp_path, "revoke", OTHER).stdout == "nothing changed\n"
    assert run(tmp_path, "revocations").stdout == f"peer    {OTHER}\n"


def test_nothing_is_revoked_at_first(tmp_path: Path, swarm: SwarmCard) -> None:
    shown = run(tmp_path, "revocations")
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, "", "nobody is revoked\n")


@pytest.mark.parametrize("text", ["p1", PEER[:-1], PEER.lower(), "abc", "0" * 15, "helix1abc"])
def test_target_that_is_none_is_one_clear_error_and_signs_nothing(
    tmp_path: Path, swarm: SwarmCard, text: str
) -> None:
    assert isinstance(refused(tmp_path, "revoke", PEER, text), InviteError)
    assert not (tmp_path / "revocations").exists()


def test_invite_of_another_swarm_and_this_node_itself_are_refused(
    tmp_path: Path, swarm: SwarmCard
) -> None:
    elsewhere = tmp_path / "elsewhere"
    with StateDir(elsewhere) as held:
        root = held.swarm_key()
    other = SwarmCard(swarm_id_of(root.public_key), False, (ADDRESS,), "tiny", "ab" * 32)
    invite = new_invite(elsewhere, other, days=1, now_unix_s=0.0)
    assert "not for" in str(refused(tmp_path, "revoke", invite.to_text()))
    with StateDir(tmp_path) as held:
        own = held.identity().peer_id
    assert isinstance(refused(tmp_path, "revoke", own), ConfigError)


def test_open_swarm_and_a_folder_without_the_root_key_cannot_revoke(tmp_path: Path) -> None:
    card = SwarmCard(open_swarm_id_of("ab" * 32), True, (ADDRESS,), "tiny", "ab" * 32)
    write_card(tmp_path, card)
    assert "open" in str(refused(tmp_path, "revoke", PEER))
    write_card(tmp_path, SwarmCard("x" * 24, False, (ADDRESS,), "tiny", "ab" * 32))
    assert "root key is not in" in str(refused(tmp_path, "revoke", PEER))


def test_running_node_and_command_never_put_an_older_list_over_a_newer_one(
    tmp_path: Path, swarm: SwarmCard
) -> None:
    with StateDir(tmp_path) as held:
        root = held.swarm_key()
        run(tmp_path, "revoke", PEER)
        newest = held.revocations()
        held.keep_revocations(revoke(root, 1, []))  # gossip brings an old one
        assert held.revocations() == newest
        later = revoke(root, 2**40, [], [OTHER])
        held.keep_revocations(later)
        assert held.revocations() == later


def test_damaged_list_is_an_error_and_lets_nobody_back_in(tmp_path: Path, swarm: SwarmCard) -> None:
    run(tmp_path, "revoke", PEER)
    file = tmp_path / "revocations"
    file.write_bytes(file.read_bytes()[:-3])
    with StateDir(tmp_path) as held, pytest.raises(ConfigError, match="damaged"):
        held.revocations()
    assert isinstance(refused(tmp_path, "revoke", OTHER), ConfigError)


def test_list_of_another_swarm_counts_for_nothing(tmp_path: Path, swarm: SwarmCard) -> None:
    with StateDir(tmp_path) as held:
        foreign: Signed = revoke(Identity(b"z" * 32), 2**40, [], [PEER])
        held.keep_revocations(foreign)
    assert run(tmp_path, "revocations").stdout == ""
    assert run(tmp_path, "revoke", OTHER).stdout == "1 revoked; the list names 1\n"


def test_nonsense_is_called_that_where_no_bootstrap_node_ever_ran(tmp_path: Path) -> None:
    error = refused(tmp_path / "none", "revoke", "nonsense")
    assert isinstance(error, InviteError)
    assert "nonsense" in str(error)
    assert isinstance(refused(tmp_path / "none", "revoke", PEER), ConfigError)
