"""`helix-bootstrap revoke`: put peers, or everyone who came in by an invite, out of the swarm.

The command signs a new list with the swarm's root key and leaves it in the state folder, where the
running node takes it up within a second or two and tells everyone; a node that does not run takes
it up at its next start.

Always: nothing is signed unless every target makes sense; a list never falls behind the one it
replaces.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import base58
import click

from helix_bootstrap.invites import root_of
from helix_p2p.cli.control import ask_status
from helix_p2p.errors import ConfigError, HelixError, InviteError
from helix_p2p.identity import Identity, Signed, peer_id_of
from helix_p2p.membership.invite import INVITE_PREFIX, read_invite
from helix_p2p.membership.revocations import Revocations, open_revocations, revoke
from helix_p2p.node.state import (
    IDENTITY_FILE,
    REVOCATIONS_FILE,
    change_revocations,
    load_or_create_key,
    read_value,
)
from helix_p2p.types import PeerId

_INVITE_ID = re.compile(r"[0-9a-f]{16}")
_PEER_ID_BYTES = 38
_OPEN = "this swarm is open: anybody may be in it, so nobody can be put out"


@dataclass(frozen=True, slots=True)
class Targets:
    """What a list is to name, or no longer."""

    invite_ids: frozenset[str] = frozenset()
    peers: frozenset[PeerId] = frozenset()


def print_revoked(state_dir: Path, targets: Sequence[str], *, undo: bool, as_json: bool) -> None:
    """Sign and leave a list with (or, with `undo`, without) these targets; say what follows.

    Raises:
        ConfigError: No invite-only swarm has its root here, or a target is this very node.
        InviteError: A target is none, or of another swarm.
        CapacityError: The list is full.
    """
    read_targets(targets)  # what makes no sense anywhere is said before this folder is looked at
    root, swarm = root_of(state_dir, _OPEN)
    named = read_targets(targets, swarm)
    own = load_or_create_key(state_dir / IDENTITY_FILE).peer_id
    if own in named.peers and not undo:
        raise ConfigError("that is this bootstrap node itself", hint="stop it instead")
    before = Revocations(0, ())

    def change(held: Signed | None) -> Signed:
        nonlocal before
        before = _read(held, swarm, root)
        invites, peers = set(before.invite_ids), set(before.peers)
        if undo:
            invites, peers = invites - named.invite_ids, peers - named.peers
        else:
            invites, peers = invites | named.invite_ids, peers | named.peers
        if held is not None and (invites, peers) == (set(before.invite_ids), set(before.peers)):
            return held
        # The clock keeps lists apart that two bootstrap nodes of one swarm make.
        return revoke(root, max(before.serial + 1, int(time.time())), invites, peers)

    after = _read(change_revocations(state_dir, change), swarm, root)
    if as_json:
        _print_json(after)
        return
    count = len(after.names ^ before.names)
    word = "taken back" if undo else "revoked"
    click.echo(f"{count} {word}; the list names {len(after.names)}" if count else "nothing changed")
    if count:
        click.echo(_what_follows(state_dir, named, undo=undo), err=True)


def print_revocations(state_dir: Path, *, as_json: bool) -> None:
    """Show whom the swarm put out, one a line.

    Raises:
        ConfigError: No invite-only swarm has its root here.
    """
    root, swarm = root_of(state_dir, _OPEN)
    said = _read(read_value(state_dir / REVOCATIONS_FILE, Signed), swarm, root)
    if as_json:
        _print_json(said)
        return
    for peer in said.peers:
        click.echo(f"peer    {peer}")
    for invite_id in said.invite_ids:
        click.echo(f"invite  {invite_id}")
    if not said.names:
        click.echo("nobody is revoked", err=True)


def read_targets(texts: Sequence[str], swarm: str | None = None) -> Targets:
    """Peer ids, ids of invites, or whole invites (of this swarm, if one is named).

    Raises:
        InviteError: One of them is neither, or an invite of another swarm.
    """
    invite_ids: set[str] = set()
    peers: set[PeerId] = set()
    for text in texts:
        if _INVITE_ID.fullmatch(text):
            invite_ids.add(text)
        elif text.startswith(INVITE_PREFIX):
            invite = read_invite(text)
            granted = invite.granted()
            if granted is None:
                raise InviteError("an open swarm's invite lets nobody in and keeps nobody out")
            if swarm is not None and invite.swarm != swarm:
                raise InviteError(f"this invite is for the swarm {invite.swarm}, not for {swarm}")
            invite_ids.add(granted.invite_id)
        elif _is_peer_id(text):
            peers.add(PeerId(text))
        else:
            raise InviteError(
                f"{text[:60]!r} is neither a peer, nor an invite, nor an invite's id",
                hint="`helix-bootstrap status` shows peers; an invite's id has 16 hex digits",
            )
    return Targets(frozenset(invite_ids), frozenset(peers))


def _is_peer_id(text: str) -> bool:
    try:
        raw = base58.b58decode(text)
        return len(raw) == _PEER_ID_BYTES and peer_id_of(raw[-32:]) == text
    except (ValueError, HelixError):
        return False


def _read(record: Signed | None, swarm: str, root: Identity) -> Revocations:
    if record is None or record.swarm != swarm:
        return Revocations(0, ())
    return open_revocations(record, swarm, root.public_key)


def _what_follows(state_dir: Path, named: Targets, *, undo: bool) -> str:
    try:
        ask_status(state_dir)
    except HelixError:
        return "no bootstrap node runs here now; the swarm hears of it when it runs again"
    if undo:
        return "who was taken back is let in again within a minute"
    told = "everyone hears of it within seconds, and cuts them off"
    if named.peers and not named.invite_ids:
        told += "; who still holds an invite can come back under another key, so revoke that too"
    return told


def _print_json(said: Revocations) -> None:
    data = {"serial": said.serial, "peers": said.peers, "invite_ids": said.invite_ids}
    click.echo(json.dumps(data))
