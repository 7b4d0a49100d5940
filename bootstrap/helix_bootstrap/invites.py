"""Invites: who may come in, as what, until when.

A bootstrap node leaves a card of its swarm in its state folder while it runs, so that `invite` can
be asked for at any time, beside the running node or without it.
"""

import json
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import click

from helix_p2p.errors import ConfigError
from helix_p2p.identity import Identity
from helix_p2p.membership.credentials import ALL_ROLES, Role, utc
from helix_p2p.membership.invite import Invite, create_invite
from helix_p2p.node.state import SWARM_KEY_FILE, load_or_create_key, read_value, write_value

CARD_FILE = "swarm-card"
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class SwarmCard:
    """What an invite says of a swarm.

    Attributes:
        swarm: Swarm id.
        open_swarm: Whether anybody may come in.
        addresses: Multiaddrs of bootstrap nodes.
        model_name: What people call the model.
        manifest_hash: Which weights exactly.
    """

    swarm: str
    open_swarm: bool
    addresses: tuple[str, ...]
    model_name: str
    manifest_hash: str


def write_card(state_dir: Path, card: SwarmCard) -> None:
    """Keep the card for later invites."""
    write_value(state_dir / CARD_FILE, card)


def read_card(state_dir: Path) -> SwarmCard:
    """The card of the swarm of this state folder.

    Raises:
        ConfigError: No bootstrap node ever ran here.
    """
    card = read_value(state_dir / CARD_FILE, SwarmCard)
    if card is None:
        raise ConfigError(
            f"no bootstrap node ran with the state folder {state_dir}",
            hint="start `helix-bootstrap run` first, or name its --state-dir",
        )
    return card


def root_of(state_dir: Path, if_open: str) -> tuple[Identity, str]:
    """The root key of the swarm of this state folder, and the swarm's id.

    Args:
        state_dir: A bootstrap node's.
        if_open: What cannot be done in an open swarm, in words.

    Raises:
        ConfigError: No bootstrap node ever ran here, or its swarm is open, or the key is not here.
    """
    card = read_card(state_dir)
    if card.open_swarm:
        raise ConfigError(if_open, hint="run an invite-only one to choose who is in")
    if not (state_dir / SWARM_KEY_FILE).exists():
        raise ConfigError(
            f"the swarm's root key is not in {state_dir}",
            hint="run this where the bootstrap node with swarm.key lives",
        )
    return load_or_create_key(state_dir / SWARM_KEY_FILE), card.swarm


def new_invite(
    state_dir: Path,
    card: SwarmCard,
    roles: Collection[Role] = ALL_ROLES,
    *,
    days: float,
    now_unix_s: float,
) -> Invite:
    """An invite to the card's swarm.

    Args:
        state_dir: Holds the swarm's root key; not read for an open swarm.
        card: Of the swarm.
        roles: What the holder may be; everything in an open swarm.
        days: How long it holds; for ever in an open swarm.
        now_unix_s: Wall clock.
    """
    if card.open_swarm:
        return Invite(card.swarm, card.addresses, card.model_name, card.manifest_hash)
    return create_invite(
        root=load_or_create_key(state_dir / SWARM_KEY_FILE),
        invite_seed=secrets.token_bytes(32),
        addresses=card.addresses,
        model_name=card.model_name,
        manifest_hash=card.manifest_hash,
        expires_unix_s=now_unix_s + days * _DAY_S,
        roles=roles,
    )


def print_invite(state_dir: Path, roles: Collection[str], days: float, *, as_json: bool) -> None:
    """Make an invite and print it, the invite itself on stdout and what it allows on stderr."""
    card = read_card(state_dir)
    invite = new_invite(
        state_dir, card, [Role(role) for role in roles], days=days, now_unix_s=time.time()
    )
    granted = invite.granted()
    if as_json:
        said = {
            "invite": invite.to_text(),
            "swarm": card.swarm,
            "model": card.model_name,
            "invite_id": granted.invite_id if granted else None,
            "roles": list(granted.roles) if granted else sorted(ALL_ROLES),
            "expires_unix_s": granted.expires_unix_s if granted else None,
        }
        click.echo(json.dumps(said))
        return
    click.echo(invite.to_text())
    if granted is None:
        click.echo("an open swarm: anybody may join, nobody vouches for anybody", err=True)
    else:
        click.echo(
            f"for {', '.join(granted.roles)} until {utc(granted.expires_unix_s)}; "
            f"id {granted.invite_id}; hand it over like a password",
            err=True,
        )
