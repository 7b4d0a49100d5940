"""The pasted line: what it carries, and clear words when it does not work."""

from dataclasses import replace

import pytest

from helix_p2p import codec
from helix_p2p.errors import InviteError
from helix_p2p.membership.credentials import (
    ALL_ROLES,
    Role,
    open_swarm_id_of,
    swarm_id_of,
    verify_credentials,
)
from helix_p2p.membership.invite import Invite, create_invite, read_invite

from .makers import UNIX_S, identity, peer

ROOT = identity(100)
ADDRESSES = (
    f"/ip4/203.0.113.7/tcp/31337/p2p/{peer(50)}",
    f"/dns4/boot.example.org/tcp/31337/p2p/{peer(51)}",
)


def make(expires_unix_s: float = UNIX_S + 3600, roles: frozenset[Role] = ALL_ROLES) -> Invite:
    return create_invite(
        root=ROOT,
        invite_seed=bytes(range(32)),
        addresses=ADDRESSES,
        model_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        manifest_hash="ab" * 32,
        expires_unix_s=expires_unix_s,
        roles=roles,
    )


def test_invite_survives_its_text() -> None:
    text = make().to_text()
    assert text.startswith("helix1")
    assert text.isalnum()
    assert read_invite(text) == make()


def test_invite_survives_a_terminal_that_wraps_it() -> None:
    text = make().to_text()
    wrapped = "  " + "\n".join(text[i : i + 80] for i in range(0, len(text), 80)) + " \r\n"
    assert read_invite(wrapped) == make()


def test_joiner_makes_its_own_certificate_offline() -> None:
    invite = read_invite(make(roles=frozenset({Role.PEER})).to_text())
    roles = verify_credentials(
        invite.credentials_for(identity(1).public_key),
        peer=peer(1),
        swarm=swarm_id_of(ROOT.public_key),
        root_public_key=ROOT.public_key,
        now_unix_s=UNIX_S,
    )
    assert roles == {Role.PEER}


@pytest.mark.parametrize("text", ["", "hello", "https://helix1abc", "Helix1abc"])
def test_other_text_is_no_invite(text: str) -> None:
    with pytest.raises(InviteError, match="begins with helix1"):
        read_invite(text)


def test_invite_cut_short_is_recognised_by_its_checksum() -> None:
    text = make().to_text()
    for cut in (1, 5, len(text) // 2, len(text) - 7):
        with pytest.raises(InviteError, match=r"checksum|characters"):
            read_invite(text[:-cut])


def test_any_changed_character_is_found() -> None:
    text = make().to_text()
    for place in range(6, len(text), 7):
        other = "2" if text[place] != "2" else "3"
        with pytest.raises(InviteError):
            read_invite(text[:place] + other + text[place + 1 :])


def test_characters_outside_base58_and_overlong_text_are_refused() -> None:
    with pytest.raises(InviteError, match="characters"):
        read_invite("helix10OIl")
    with pytest.raises(InviteError, match="too long"):
        read_invite("helix1" + "2" * 5000)


def test_expired_invite_says_when() -> None:
    invite = make(expires_unix_s=UNIX_S)
    invite.check(UNIX_S - 1)
    with pytest.raises(InviteError, match=r"expired on 2027-01-15 08:00 UTC"):
        invite.check(UNIX_S)


def test_invite_of_another_swarm_is_refused() -> None:
    invite = make()
    invite.check(UNIX_S, swarm=invite.swarm)
    with pytest.raises(InviteError, match="is for the swarm"):
        invite.check(UNIX_S, swarm=open_swarm_id_of("other"))


def test_open_swarm_is_untrusted_and_needs_no_certificate() -> None:
    invite = Invite(open_swarm_id_of("garage"), ADDRESSES, "some/model", "ab" * 32)
    again = read_invite(invite.to_text())
    assert again == invite
    assert not again.trusted
    assert again.credentials_for(identity(1).public_key) == b""
    again.check(UNIX_S)


@pytest.mark.parametrize(
    "bent",
    [
        replace(make(), invite_seed=bytes(32)),
        replace(make(), invite_seed=b"short"),
        replace(make(), grant=None),
        replace(make(), root_public_key=identity(3).public_key),
        replace(make(), root_public_key=b""),
    ],
)
def test_invite_that_contradicts_itself_is_refused(bent: Invite) -> None:
    with pytest.raises(InviteError):
        read_invite(bent.to_text())


def test_invite_fits_on_a_screen() -> None:
    assert len(make().to_text()) < 1400, len(codec.encode(make()))
