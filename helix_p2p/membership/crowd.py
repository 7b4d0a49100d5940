"""How many of those who vouch only for themselves may come from one range of addresses.

In an open swarm a key costs nothing, a machine little, a range of addresses something. So of one
IPv4 /24 or IPv6 /48 a view takes so many and no more, and a flood of made-up peers from a few
machines neither fills it nor stands for most of it (eclipse: Heilman et al., USENIX Security 2015).
Addresses of a home or of one machine say nothing of where someone is, and are not counted; in an
invite-only swarm certificates vouch, and nobody is.

Always: nobody is counted twice; a swarm of up to `LEAST` peers is never limited.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterable

from helix_p2p.types import PeerId

LEAST = 32
SHARE = 8
"""At most an eighth of those who are known."""
_PREFIX_OF_VERSION = {4: 24, 6: 48}


def ranges_of(addresses: Iterable[str]) -> frozenset[str]:
    """The public ranges that multiaddrs lie in; a relay's address is not the peer's."""
    found = set()
    for address in addresses:
        parts = address.split("/")
        if len(parts) < 3 or parts[1] not in ("ip4", "ip6") or "p2p-circuit" in parts:
            continue
        try:
            ip = ipaddress.ip_address(parts[2])
        except ValueError:
            continue
        if ip.is_global:
            prefix = _PREFIX_OF_VERSION[ip.version]
            found.add(str(ipaddress.ip_network((ip, prefix), strict=False)))
    return frozenset(found)


class Crowd:
    """Those who are known, by range.

    Args:
        limited: False counts nobody.
    """

    def __init__(self, *, limited: bool) -> None:
        self._limited = limited
        self._ranges: dict[PeerId, frozenset[str]] = {}
        self._counts: Counter[str] = Counter()

    def has_room(self, peer: PeerId, addresses: Iterable[str]) -> bool:
        """Whether one more of these addresses may be known."""
        if not self._limited:
            return True
        most = max(LEAST, len(self._ranges) // SHARE)
        own = self._ranges.get(peer, frozenset())
        return all(self._counts[one] - (one in own) < most for one in ranges_of(addresses))

    def add(self, peer: PeerId, addresses: Iterable[str]) -> None:
        """It is known, or says anew where it is."""
        if self._limited:
            self.drop(peer)
            self._ranges[peer] = ranges_of(addresses)
            self._counts.update(self._ranges[peer])

    def drop(self, peer: PeerId) -> None:
        """It is known no longer."""
        for one in self._ranges.pop(peer, frozenset()):
            self._counts[one] -= 1
            if not self._counts[one]:
                del self._counts[one]
