"""What a bootstrap node tells others of itself."""

import pytest

from helix_bootstrap.service import useful_addresses

HOME = "/ip4/127.0.0.1/tcp/1/p2p/x"
HOME6 = "/ip6/::1/tcp/1/p2p/x"
LAN = "/ip4/192.168.1.5/tcp/1/p2p/x"
NAMED = "/dns4/swarm.example/tcp/1/p2p/x"


@pytest.mark.parametrize(
    ("addresses", "useful"),
    [
        ((HOME, LAN, HOME6, NAMED), (LAN, NAMED)),
        ((HOME, HOME6), (HOME, HOME6)),
        ((), ()),
    ],
)
def test_invites_name_addresses_that_lead_here_from_elsewhere(
    addresses: tuple[str, ...], useful: tuple[str, ...]
) -> None:
    assert useful_addresses(addresses) == useful
