"""Invites from the state folder: for the roles and the time that were asked for."""

import json
from pathlib import Path

from click.testing import CliRunner

from helix_bootstrap.cli import cli
from helix_bootstrap.invites import SwarmCard, new_invite, write_card
from helix_p2p.membership.credentials import Role, open_swarm_id_of
from helix_p2p.membership.invite import read_invite
from tests.unit.apps.cards import ADDRESS


def test_invite_leads_into_the_swarm_with_the_roles_asked_for(
    tmp_path: Path, swarm: SwarmCard
) -> None:
    made = CliRunner().invoke(cli, ["invite", "--state-dir", str(tmp_path), "--role", "client"])
    assert made.exit_code == 0
    invite = read_invite(made.stdout)
    assert (invite.swarm, invite.addresses) == (swarm.swarm, (ADDRESS,))
    granted = invite.granted()
    assert granted is not None
    assert granted.roles == (Role.CLIENT,)
    assert "hand it over like a password" in made.stderr


def test_json_says_what_the_invite_allows(tmp_path: Path, swarm: SwarmCard) -> None:
    made = CliRunner().invoke(cli, ["invite", "--state-dir", str(tmp_path), "--json"])
    said = json.loads(made.stdout)
    assert read_invite(said["invite"]).model_name == said["model"] == "tiny"
    assert set(said["roles"]) == {"peer", "planner", "client"}


def test_it_holds_for_the_days_asked_for(tmp_path: Path, swarm: SwarmCard) -> None:
    invite = new_invite(tmp_path, swarm, days=2, now_unix_s=1000.0)
    granted = invite.granted()
    assert granted is not None
    assert granted.expires_unix_s == 1000.0 + 2 * 86_400


def test_two_invites_can_be_revoked_apart(tmp_path: Path, swarm: SwarmCard) -> None:
    ids = set()
    for _ in range(2):
        granted = new_invite(tmp_path, swarm, days=1, now_unix_s=0.0).granted()
        assert granted is not None
        ids.add(granted.invite_id)
    assert len(ids) == 2


def test_open_swarm_needs_no_key_and_says_that_nobody_vouches(tmp_path: Path) -> None:
    write_card(tmp_path, SwarmCard(open_swarm_id_of("x"), True, (ADDRESS,), "tiny", ""))
    made = CliRunner().invoke(cli, ["invite", "--state-dir", str(tmp_path)])
    assert not read_invite(made.stdout).trusted
    assert "nobody vouches" in made.stderr
    assert not (tmp_path / "swarm.key").exists()


def test_folder_without_a_swarm_is_one_clear_error(tmp_path: Path) -> None:
    refused = CliRunner().invoke(cli, ["invite", "--state-dir", str(tmp_path / "none")])
    assert "no bootstrap node ran" in str(refused.exception)
    assert not (tmp_path / "none").exists()
