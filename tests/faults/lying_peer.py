"""`helix-peer` that says ten times its speed and ten times its line of itself."""

from dataclasses import replace
from typing import Any

import helix_p2p.node.peer as node
from helix_p2p.membership.own import OwnState
from helix_peer.cli import main

LIE = 10.0


def _lie(**fields: Any) -> OwnState:
    own = OwnState(**fields)
    if own.speed is None:
        return own
    up, down = own.uplink_bytes_per_s, own.downlink_bytes_per_s
    return replace(
        own,
        speed=own.speed.slowed(1 / LIE),
        uplink_bytes_per_s=None if up is None else LIE * up,
        downlink_bytes_per_s=None if down is None else LIE * down,
    )


if __name__ == "__main__":
    node.OwnState = _lie  # type: ignore[attr-defined, assignment]
    main()
