"""A guest with an invite asks a node over real libp2p; without one it is told nothing."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from helix_p2p.errors import InviteError, PeerUnreachable, ProtocolError
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.credentials import swarm_id_of
from helix_p2p.membership.invite import create_invite
from helix_p2p.membership.messages import RootWords
from helix_p2p.net.channel import Membership
from helix_p2p.net.libp2p import Libp2pTransport
from helix_p2p.net.requests import serve_requests
from helix_p2p.node.control import ControlService
from helix_p2p.node.joining import found_swarm
from helix_p2p.node.remote import ask_remote_status

ROOT, OTHER_ROOT, NODE = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
STATUS: Mapping[str, object] = {"role": "peer", "state": "serving"}


def invite_of(root: Identity, expires_unix_s: float = 4e9) -> str:
    invite = create_invite(
        root=root,
        invite_seed=bytes([9]) * 32,
        addresses=(),
        model_name="tiny",
        manifest_hash="ab" * 32,
        expires_unix_s=expires_unix_s,
    )
    return invite.to_text()


async def _nobody(_cell: int | None) -> tuple[Signed, ...]:
    return ()


@asynccontextmanager
async def node() -> AsyncIterator[str]:
    """A node that answers questions; gives its address."""
    admission = found_swarm(ROOT, NODE, "ab" * 32).admission()
    assert admission.swarm == swarm_id_of(ROOT.public_key)
    transport = await Libp2pTransport.start(NODE)
    service = ControlService(
        plan=lambda _hash: None,
        members=_nobody,
        root_words=lambda _asked: RootWords(),
        files={},
        status=lambda: json.dumps(STATUS).encode(),
    )
    try:
        await serve_requests(transport, Membership.of(lambda: admission), service.answer)
        yield transport.addresses[0]
    finally:
        await transport.close()


async def test_guest_with_an_invite_is_answered() -> None:
    async with node() as address:
        assert await ask_remote_status(address, invite_of(ROOT)) == STATUS


async def test_guest_of_another_swarm_is_refused() -> None:
    async with node() as address:
        with pytest.raises(ProtocolError):
            await ask_remote_status(address, invite_of(OTHER_ROOT))


async def test_expired_invite_is_refused_before_anything_is_started() -> None:
    with pytest.raises(InviteError, match="expired"):
        await ask_remote_status("/ip4/127.0.0.1/tcp/1/p2p/x", invite_of(ROOT, 1000.0))


async def test_nobody_there_is_one_clear_error() -> None:
    async with node() as address:
        pass
    with pytest.raises(PeerUnreachable):
        await ask_remote_status(address, invite_of(ROOT))
