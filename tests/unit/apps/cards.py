"""A bootstrap node's state folder as its commands find it."""

from pathlib import Path

from helix_bootstrap.invites import SwarmCard, write_card
from helix_p2p.membership.credentials import swarm_id_of
from helix_p2p.node.state import StateDir

ADDRESS = "/ip4/127.0.0.1/tcp/31470/p2p/12D3KooWGMYMmN1RGUYjWaSV6P3XtnBjwnosnJGNMnttfVCRnd6g"


def invite_only(folder: Path) -> SwarmCard:
    """The folder of a node whose swarm is invite-only, its root key in it."""
    with StateDir(folder) as held:
        root = held.swarm_key()
    card = SwarmCard(swarm_id_of(root.public_key), False, (ADDRESS,), "tiny", "ab" * 32)
    write_card(folder, card)
    return card
