"""How a member enters and leaves its swarm: network, DHT, its cell, then its presence there.

Use `async with reaching(...) as transport, presence(place, transport, ...) as here`; leaving the
blocks takes everything down in the opposite order, the libp2p daemon last.

Always: nobody is a member before the daemon runs and the DHT answers; a task that dies of a bug
ends the whole block with that error, so nothing runs on half dead.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from helix_p2p.errors import NetworkError
from helix_p2p.identity import Identity
from helix_p2p.membership.effects import Effect
from helix_p2p.membership.records import RecordRules, allowed_keys, check_record
from helix_p2p.net.channel import Membership
from helix_p2p.net.dht import Libp2pDirectory
from helix_p2p.net.libp2p import Libp2pTransport
from helix_p2p.net.requests import serve_requests
from helix_p2p.node.background import background
from helix_p2p.node.cells import CellsKnown
from helix_p2p.node.config import NetworkConfig
from helix_p2p.node.joining import Belonging
from helix_p2p.node.presence import Place, Presence
from helix_p2p.node.root_words import ask_at_start
from helix_p2p.node.state import StateDir
from helix_p2p.node.status import NodeStatus
from helix_p2p.node.ways_in import first_asked, ways_in


@contextlib.asynccontextmanager
async def reaching(
    identity: Identity, belonging: Belonging, network: NetworkConfig, state: StateDir
) -> AsyncIterator[Libp2pTransport]:
    """Be on the network, with a way into the swarm.

    Raises:
        ConfigError: A port is in use, or an address malformed.
        PeerUnreachable: None of the bootstrap nodes or known peers answered.
    """
    transport = await Libp2pTransport.start(
        identity,
        listen=(f"/ip{_version(network.host)}/{network.host}/tcp/{network.port}",),
        bootstrap=ways_in(belonging, network, state),
        may_be_first=not belonging.bootstrap,  # a swarm's first node, all others being down
        announce=network.announce,
        nat=network.behind_nat,
    )
    try:
        yield transport
    finally:
        await asyncio.shield(transport.close())


@contextlib.asynccontextmanager
async def presence(
    place: Place,
    transport: Libp2pTransport,
    observe: Callable[[Effect], None],
    status: Callable[[], NodeStatus],
) -> AsyncIterator[Presence]:
    """Be a member: find the others, answer questions.

    Args:
        place: Where and as whom.
        transport: See `reaching`.
        observe: Told what membership finds out.
        status: Says how this node is.

    Raises:
        PeerUnreachable: Nobody answers in the DHT.
    """
    belonging = place.belonging
    here: Presence | None = None

    def rules() -> RecordRules:
        usual = RecordRules(belonging.swarm, belonging.root_public_key)
        if here is None:
            return usual
        trust = here.member.trust
        return replace(
            usual,
            revoked=trust.revoked,
            revocations_serial=trust.serial,
        )

    async with contextlib.AsyncExitStack() as stack:
        directory = await Libp2pDirectory.start(
            transport,
            keys=allowed_keys(belonging.swarm),
            check=_checker(rules),
            bootstrap=ways_in(belonging, place.network, place.state),
            may_be_first=not belonging.bootstrap,
        )
        stack.push_async_callback(directory.close)
        cells = CellsKnown(belonging, place.state)
        if belonging.trusted and place.roams:
            ours = Membership.of(belonging.admission)
            asked = first_asked(belonging, place.network, place.state)
            await ask_at_start(transport, ours, asked, cells)
        here = Presence(place, transport, directory, cells, observe, status)
        await stack.enter_async_context(here.requests)
        await stack.enter_async_context(here.links)
        stack.push_async_callback(here.driver.close)
        stack.push_async_callback(here.elsewhere.close)
        await serve_requests(transport, here.anyone, here.control.answer)
        tasks = await stack.enter_async_context(background())
        tasks.start(here.driver.run())
        tasks.start(here.introduce())
        tasks.start(here.keep_house())
        if belonging.trusted:
            tasks.start(here.share_root_words())
        tasks.start(_watch_daemon(transport))
        yield here


async def _watch_daemon(transport: Libp2pTransport) -> None:
    await transport.wait_down()
    raise NetworkError("the libp2p daemon has gone", hint="start again; --verbose shows its log")


def _checker(rules: Callable[[], RecordRules]) -> Callable[[str, str | None, bytes, float], object]:
    return lambda key, subkey, value, expires_in_s: check_record(
        key, subkey, value, expires_in_s, rules=rules(), now_unix_s=time.time()
    )


def _version(host: str) -> int:
    return 6 if ":" in host else 4
