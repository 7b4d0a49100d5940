"""How many of those who vouch only for themselves may come from one range of addresses.

In an open swarm a key costs nothing, a machine little, a range of addresses something. So of one
IPv4 /24 or IPv6 /48 a view takes so many and no more, and a flood of made-up peers from a few
machines neither fills it nor stands for most of it (eclipse: Heilman et al., USENIX Security 2015).

Where the swarm is on the internet, whoever names no public address of its own has a place as well:
that of its relay, or nowhere, which are ranges like others. And those who were only told of, and
not yet heard, are one range too: their addresses are anybody's word. In a home or a laboratory,
where nobody is on the internet, all stand in one place and are not counted. In an invite-only swarm
certificates vouch, and nobody is.

Always: nobody is counted twice; a swarm of up to `LEAST` peers is never limited.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from helix_p2p.types import PeerId

LEAST = 32
SHARE = 8
"""At most an eighth of those who are known."""
NOWHERE = "nowhere"
UNHEARD = "unheard"
PLACES_KEPT = 4096
"""Each record comes several times, and to read its addresses takes 10 µs each."""
_PREFIX_OF_VERSION = {4: 24, 6: 48}
_NAMES = ("dns", "dns4", "dns6", "dnsaddr")


def ranges_of(addresses: Iterable[str]) -> frozenset[str]:
    """The public ranges that multiaddrs lie in; a relay's address is not the peer's."""
    return _ranges_of(tuple(addresses))


@lru_cache(maxsize=PLACES_KEPT)
def _ranges_of(addresses: tuple[str, ...]) -> frozenset[str]:
    found = (_range_of(address) for address in addresses if "/p2p-circuit" not in address)
    return frozenset(one for one in found if one is not None)


def places_of(addresses: Iterable[str]) -> frozenset[str]:
    """The public ranges, or else those of its relays, or else nowhere."""
    return _places_of(tuple(addresses))


@lru_cache(maxsize=PLACES_KEPT)
def _places_of(named: tuple[str, ...]) -> frozenset[str]:
    relays = (_range_of(address) for address in named if "/p2p-circuit" in address)
    by_relay = frozenset(f"relay {one}" for one in relays if one is not None)
    return ranges_of(named) or by_relay or frozenset({NOWHERE})


@lru_cache(maxsize=PLACES_KEPT)
def _told_of(places: frozenset[str]) -> frozenset[str]:
    """One value for all who stand there: a view of thousands holds one for each member."""
    return places | {UNHEARD}


def is_public(addresses: Iterable[str]) -> bool:
    """Whether any of these leads somebody on the internet."""
    return any(
        _range_of(address) is not None or address.split("/")[1:2] in ([name] for name in _NAMES)
        for address in addresses
    )


def _range_of(address: str) -> str | None:
    parts = address.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return None
    try:
        ip = ipaddress.ip_address(parts[2])
    except ValueError:
        return None
    if not ip.is_global:
        return None
    return str(ipaddress.ip_network((ip, _PREFIX_OF_VERSION[ip.version]), strict=False))


class Crowd:
    """Those who are known, by range.

    Args:
        limited: False counts nobody.

    Attributes:
        public: Whether the swarm is on the internet.
    """

    def __init__(self, *, limited: bool) -> None:
        self.public = False
        self._limited = limited
        self._ranges: dict[PeerId, frozenset[str]] = {}
        self._counts: dict[str, int] = {}

    def has_room(self, peer: PeerId, addresses: Iterable[str], *, heard: bool = True) -> bool:
        """Whether one more of these addresses may be known.

        Args:
            peer: Who.
            addresses: As it says.
            heard: Whether it said so itself, or was told of.
        """
        if not self._limited:
            return True
        asked = self._standing(addresses, heard=heard) if self.public else ranges_of(addresses)
        if not asked:
            return True
        most, counts = self._most, self._counts
        own = self._ranges.get(peer, frozenset())
        return all(counts.get(one, 0) - (one in own) < most for one in asked)

    @property
    def has_room_for_unheard(self) -> bool:
        """Whether anybody may be known who was only told of."""
        return not (self._limited and self.public) or self._counts.get(UNHEARD, 0) < self._most

    @property
    def _most(self) -> int:
        return max(LEAST, len(self._ranges) // SHARE)

    def add(self, peer: PeerId, addresses: Iterable[str], *, heard: bool = True) -> None:
        """It is known, or says anew where it is; arguments as for `has_room`."""
        if self._limited:
            standing = self._standing(addresses, heard=heard)
            if self._ranges.get(peer) == standing:
                return
            self.drop(peer)
            self._ranges[peer] = standing
            for one in standing:
                self._counts[one] = self._counts.get(one, 0) + 1

    def drop(self, peer: PeerId) -> None:
        """It is known no longer."""
        for one in self._ranges.pop(peer, frozenset()):
            self._counts[one] -= 1
            if not self._counts[one]:
                del self._counts[one]

    @staticmethod
    def _standing(addresses: Iterable[str], *, heard: bool) -> frozenset[str]:
        places = places_of(addresses)
        return places if heard else _told_of(places)
