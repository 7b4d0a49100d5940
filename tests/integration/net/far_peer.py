"""A peer in its own process, for tests that kill or freeze it: echoes Probe messages.

Usage: far_peer.py SEED SWARM STATE_DIR. Prints one line of JSON, then for each message a line.
"""

import asyncio
import json
import sys

from helix_p2p.errors import HelixError
from helix_p2p.identity import Identity
from helix_p2p.membership.handshake import Admission
from helix_p2p.net.channel import Membership
from helix_p2p.net.libp2p import Libp2pTransport
from helix_p2p.net.links import LinkPool
from helix_p2p.types import PeerId
from helix_p2p.wire.registry import Message


async def main(seed: int, swarm: str) -> None:
    transport = await Libp2pTransport.start(Identity(bytes([seed]) * 32))

    def echo(peer: PeerId, message: Message, payload: bytearray) -> None:
        say({"message": type(message).__name__})
        links.send(peer, message, payload)

    def lost(peer: PeerId, error: HelixError) -> None:
        say({"lost": peer, "why": str(error)})

    ours = Membership.of(lambda: Admission(swarm, "m"))
    async with LinkPool(transport, ours, on_message=echo, on_lost=lost) as links:
        say({"addresses": list(transport.addresses), "daemon": transport.daemon_pid})
        await asyncio.Event().wait()


def say(line: object) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
