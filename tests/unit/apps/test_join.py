"""join says what is wrong with the way in before anything heavy begins."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from helix_p2p.errors import HelixError, InviteError, ModelError
from helix_p2p.identity import Identity
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.invite import create_invite
from helix_peer.cli import cli

ROOT = Identity(bytes([1]) * 32)
NOBODY = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity(bytes([2]) * 32).peer_id}"


@pytest.mark.parametrize(
    ("role", "kind", "complaint"),
    [
        (Role.CLIENT, InviteError, "this invite is only for client"),
        (Role.PEER, ModelError, "the swarm serves the folder tiny, which others cannot fetch"),
    ],
)
def test_invite_that_leads_nowhere_says_why(
    role: Role,
    kind: type[HelixError],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = create_invite(
        root=ROOT,
        invite_seed=bytes([3]) * 32,
        addresses=(NOBODY,),
        model_name="tiny",
        manifest_hash="ab" * 32,
        expires_unix_s=4e9,
        roles=(role,),
    ).to_text()
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(
        cli, ["join", text, "--host=127.0.0.1", "--device=cpu", f"--state-dir={tmp_path}"]
    )
    assert isinstance(ended.exception, kind)
    assert complaint in ended.exception.message
    assert ("loading the engine" in ended.output) == (Role.PEER is role), "only what can be joined"
