"""Whoever joins asks all the ways in that it was told: real nodes, of which one lies or is down."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.cluster.manifest import Manifest
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.credentials import open_swarm_id_of
from helix_p2p.membership.crowd import LEAST
from helix_p2p.membership.handshake import Admission
from helix_p2p.membership.messages import RootWords
from helix_p2p.membership.records import allowed_keys
from helix_p2p.net.channel import Membership
from helix_p2p.net.dht import Libp2pDirectory
from helix_p2p.net.libp2p import Libp2pTransport
from helix_p2p.net.requests import serve_requests
from helix_p2p.node.bootstrap import BootstrapNode
from helix_p2p.node.config import BootstrapConfig, NetworkConfig
from helix_p2p.node.control import ControlService
from tests.unit.engine.tiny import make_model, manifest_of

HONEST = 3
MADE_UP = 60
IN_S = 60.0
"""Seconds on an idle machine: two, of which DHT and dials take most."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ways") / "tiny"
    make_model("Llama", folder)
    return folder


@contextlib.asynccontextmanager
async def node(model: Path, folder: Path, *bootstrap: str) -> AsyncIterator[BootstrapNode]:
    network = NetworkConfig(host="127.0.0.1", port=0, bootstrap=bootstrap, behind_nat=False)
    config = BootstrapConfig(folder, str(model), network, open_swarm=True)
    async with BootstrapNode.running(config) as running:
        yield running


@contextlib.asynccontextmanager
async def honest_swarm(model: Path, folder: Path) -> AsyncIterator[list[BootstrapNode]]:
    async with contextlib.AsyncExitStack() as stack:
        nodes: list[BootstrapNode] = []
        for number in range(HONEST):
            entry = nodes[0].addresses if nodes else ()
            started = node(model, folder / f"honest{number}", *entry)
            nodes.append(await stack.enter_async_context(started))
        await until_known(nodes[0], {peer_of(one) for one in nodes[1:]})
        yield nodes


@contextlib.asynccontextmanager
async def liar(manifest: Manifest) -> AsyncIterator[str]:
    """A way in that answers at once, with peers that do not exist and no other."""
    swarm = open_swarm_id_of(manifest.manifest_hash)
    made_up = tuple(record_of(number, swarm, manifest) for number in range(MADE_UP))
    transport = await Libp2pTransport.start(Identity(b"l" * 32))
    directory = await Libp2pDirectory.start(
        transport, keys=allowed_keys(swarm), check=lambda *_: None, may_be_first=True
    )

    async def members(_cell: int | None) -> tuple[Signed, ...]:
        return made_up

    service = ControlService(
        plan=lambda _hash: None,
        members=members,
        root_words=lambda _asked: RootWords(),
        files={},
        status=lambda: b"{}",
    )
    admission = Admission(swarm, manifest.manifest_hash, None)
    await serve_requests(transport, Membership.of(lambda: admission), service.answer)
    try:
        yield transport.addresses[0]
    finally:
        await directory.close()
        await transport.close()


def record_of(number: int, swarm: str, manifest: Manifest) -> Signed:
    identity = Identity(number.to_bytes(2) * 16)
    said = Announcement(
        incarnation=int(time.time() * 1000),
        sequence=1,
        issued_unix_s=time.time(),
        manifest_hash=manifest.manifest_hash,
        state=PeerState.STANDBY,
        memory_bytes=10**9,
        addresses=(f"/ip4/127.0.0.1/tcp/{number + 1}/p2p/{identity.peer_id}",),
    )
    return said.signed(identity, swarm)


def peer_of(one: BootstrapNode) -> str:
    return one.status().peer


def known_to(one: BootstrapNode) -> set[str]:
    return {member.peer for member in one.status().members}


async def until_known(one: BootstrapNode, wanted: set[str]) -> None:
    async with asyncio.timeout(IN_S):
        while not wanted <= known_to(one):  # noqa: ASYNC110 - membership tells nobody
            await asyncio.sleep(0.05)


async def test_joiner_sees_the_honest_though_another_way_in_lies_is_silent_or_down(
    model: Path, tmp_path: Path
) -> None:
    manifest = manifest_of(model)
    async with contextlib.AsyncExitStack() as stack:
        silent = await asyncio.start_server(lambda _r, _w: asyncio.sleep(60), "127.0.0.1", 0)
        stack.push_async_callback(silent.wait_closed)
        stack.callback(silent.close)
        port = silent.sockets[0].getsockname()[1]
        nobody = Identity(b"n" * 32).peer_id
        bad = {
            "lies": await stack.enter_async_context(liar(manifest)),
            "silent": f"/ip4/127.0.0.1/tcp/{port}/p2p/{nobody}",
            "down": f"/ip4/127.0.0.1/tcp/9/p2p/{nobody}",
        }
        honest = await stack.enter_async_context(honest_swarm(model, tmp_path))
        peers = {peer_of(one) for one in honest}

        async def join(kind: str) -> None:
            ways_in = (bad[kind], honest[1].addresses[0])
            async with node(model, tmp_path / kind, *ways_in) as joiner:
                await until_known(joiner, peers)
                assert len(known_to(joiner) - peers) <= LEAST
                await until_known(honest[2], {peer_of(joiner)})

        for kind in bad:
            await join(kind)


async def test_restart_sees_the_honest_though_the_only_bootstrap_node_has_turned(
    model: Path, tmp_path: Path
) -> None:
    """What was known from before is asked beside it."""
    async with (
        liar(manifest_of(model)) as turned,
        honest_swarm(model, tmp_path) as honest,
    ):
        peers = {peer_of(one) for one in honest}
        state = tmp_path / "again"
        async with node(model, state, honest[0].addresses[0]) as joiner:
            await until_known(joiner, peers)
            await remembered(joiner)
        async with node(model, state, turned) as joiner:
            await until_known(joiner, peers)


async def remembered(joiner: BootstrapNode) -> None:
    """Its list of known peers is on disk."""
    path = joiner.config.state_dir / "known-peers"
    async with asyncio.timeout(IN_S):
        while not await asyncio.to_thread(path.exists):  # noqa: ASYNC110 - written when it pleases
            await asyncio.sleep(0.1)
