"""How a client finds its swarm: an invite, or addresses of anyone in an open swarm.

Always: what was read can be dialled; text that is neither gives one `InviteError` that says what a
way in looks like.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import base58

from helix_p2p.errors import InviteError
from helix_p2p.membership.invite import INVITE_PREFIX, Invite, read_invite
from helix_p2p.types import PeerId

_PEER_ID_START = bytes.fromhex("002408011220")


@dataclass(frozen=True, slots=True)
class WayIn:
    """Whom to ask first.

    Attributes:
        sources: Bootstrap nodes or peers, with their multiaddrs.
        invite: None when bare addresses were given.
    """

    sources: dict[PeerId, tuple[str, ...]]
    invite: Invite | None = None

    @property
    def local(self) -> bool:
        """Whether all addresses are on this machine."""
        addresses = [address for several in self.sources.values() for address in several]
        return all(
            address.startswith(("/ip4/127.", "/ip6/::1/", "/memory/")) for address in addresses
        )


def read_way_in(given: str | Sequence[str], now_unix_s: float) -> WayIn:
    """Read an invite, or multiaddrs with `/p2p/…` (several, or separated by commas or spaces).

    Raises:
        InviteError: It is neither, or the invite is cut short or expired.
    """
    text = given if isinstance(given, str) else " ".join(given)
    if text.strip().startswith(INVITE_PREFIX):
        invite = read_invite(text)
        invite.check(now_unix_s)
        return WayIn(_sources(invite.addresses), invite)
    addresses = text.replace(",", " ").split()
    if not addresses:
        raise InviteError("there is no way in: give an invite or the address of a bootstrap node")
    return WayIn(_sources(addresses))


def _sources(addresses: Sequence[str]) -> dict[PeerId, tuple[str, ...]]:
    sources: dict[PeerId, tuple[str, ...]] = {}
    for address in addresses:
        peer = _peer_of(address)
        sources[peer] = (*sources.get(peer, ()), address)
    return sources


def _peer_of(address: str) -> PeerId:
    where, _, peer = address.rpartition("/p2p/")
    try:
        known = base58.b58decode(peer)
    except ValueError:
        known = b""
    if not where.startswith("/") or len(known) != 38 or not known.startswith(_PEER_ID_START):
        raise InviteError(
            f"{address[:80]!r} is neither an invite nor an address",
            hint="an invite begins with helix1, an address is /ip4/…/tcp/…/p2p/12D3KooW…",
        )
    return PeerId(peer)
