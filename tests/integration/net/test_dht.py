"""The real DHT among three nodes: found, refused, and not fooled by hostile ones."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from helix_p2p.errors import PeerUnreachable, RecordRejected
from helix_p2p.identity import Identity
from helix_p2p.net import lean_hivemind
from helix_p2p.net.dht import Libp2pDirectory
from helix_p2p.net.libp2p import Libp2pTransport

KEYS = ("swarm/members/0", "swarm/members/1")
NAMES = ("ann", "ben", "cat")


def owner_only(key: str, subkey: str | None, value: bytes, expires_in_s: float) -> None:
    """The value begins with its owner's name: stands in for a signature."""
    if subkey is None or not value.startswith(subkey.encode()) or expires_in_s > 100:
        raise RecordRejected("not the owner's")
    if key not in KEYS:
        raise RecordRejected("unknown key")


def anything(_key: str, _subkey: str | None, _value: bytes, _expires_in_s: float) -> None:
    """What a hostile node lets pass."""


@asynccontextmanager
async def swarm(checks: Sequence[Any] = (owner_only,) * 3) -> AsyncIterator[list[Libp2pDirectory]]:
    async with AsyncExitStack() as stack:
        nodes: list[Libp2pDirectory] = []
        entry: Sequence[str] = ()
        for number, check in enumerate(checks):
            transport = await Libp2pTransport.start(
                Identity(bytes([number + 1]) * 32), bootstrap=entry
            )
            stack.push_async_callback(transport.close)
            entry = entry or transport.addresses
            node = await Libp2pDirectory.start(transport, keys=KEYS, check=check, bootstrap=entry)
            stack.push_async_callback(node.close)
            nodes.append(node)
        yield nodes


async def test_records_of_all_owners_are_found_by_all() -> None:
    async with swarm() as nodes:
        for node, name in zip(nodes, NAMES, strict=True):
            assert await node.publish(KEYS[0], name, name.encode() + b"-1", 60.0)
        assert await nodes[0].publish(KEYS[0], "ann", b"ann-2", 70.0)
        expected = {"ann": b"ann-2", "ben": b"ben-1", "cat": b"cat-1"}
        assert [await node.look_up(KEYS[0]) for node in nodes] == [expected] * 3
        assert await nodes[1].look_up(KEYS[1]) == {}


async def test_a_foreign_subkey_is_refused_by_writer_and_by_storing_nodes() -> None:
    async with swarm((owner_only, owner_only, anything)) as (ann, ben, eve):
        await ann.publish(KEYS[0], "ann", b"ann-1", 60.0)
        with pytest.raises(RecordRejected):
            await ben.publish(KEYS[0], "ann", b"ben says so", 60.0)
        await eve.publish(KEYS[0], "ann", b"eve says so", 90.0)  # her own node takes it
        await eve.publish(KEYS[0], "eve", b"eve", 1e9)  # valid but for its endless expiry
        assert await ann.look_up(KEYS[0]) == {"ann": b"ann-1"}
        assert await ben.look_up(KEYS[0]) == {"ann": b"ann-1"}


async def test_a_plain_value_does_not_replace_the_records() -> None:
    async with swarm((owner_only, owner_only, anything)) as (ann, ben, eve):
        await ann.publish(KEYS[0], "ann", b"ann-1", 60.0)
        await eve._node.store(KEYS[0], b"all mine", expiration_time=time.time() + 80.0)
        assert await ben.look_up(KEYS[0]) == {"ann": b"ann-1"}
        assert await ann.look_up(KEYS[0]) == {"ann": b"ann-1"}


async def test_one_bad_record_does_not_hide_the_others_of_its_answer() -> None:
    async with swarm((owner_only, owner_only, anything)) as (_ann, ben, eve):
        _put(eve, "ann", b"forged", 60.0)
        _put(eve, "cat", b"cat-1", 60.0)
        assert await ben.look_up(KEYS[0]) == {"cat": b"cat-1"}


async def test_an_answer_cannot_claim_a_later_expiry_than_its_records() -> None:
    async with swarm((owner_only, owner_only, anything)) as (_ann, ben, eve):
        _put(eve, "cat", b"cat-1", 60.0)
        key_id = _key_id(KEYS[0])
        eve._node.protocol.storage.get(key_id).value.latest_expiration_time = float("inf")
        eve._node.protocol.storage.data[key_id] = lean_hivemind.load().item_class(
            eve._node.protocol.storage.get(key_id).value, float("inf")
        )
        answer = await ben._node.protocol.call_find(eve._node.peer_id, [key_id])
        assert answer[key_id][0].expiration_time < time.time() + 61.0
        assert await ben.look_up(KEYS[0]) == {"cat": b"cat-1"}


async def test_an_older_record_stored_again_does_not_shorten_the_newer_one() -> None:
    async with swarm((owner_only, owner_only, anything)) as (ann, ben, eve):
        soon_s = time.time() + 1.0
        await ann.publish(KEYS[0], "ann", b"ann-2", 60.0)
        eve._node.protocol.storage.clear()
        value = lean_hivemind.load().serializer_class.dumps(b"ann-1")
        for node in (ann, ben):
            await eve._node.protocol.call_store(
                node._node.peer_id, [_key_id(KEYS[0])], [value], [soon_s], subkeys=["ann"]
            )
        await asyncio.sleep(soon_s + 0.1 - time.time())
        assert await ben.look_up(KEYS[0]) == {"ann": b"ann-2"}
        assert await ann.look_up(KEYS[0]) == {"ann": b"ann-2"}


async def test_records_expire() -> None:
    async with swarm((owner_only, owner_only)) as (ann, ben):
        await ann.publish(KEYS[0], "ann", b"ann-1", 0.5)
        await ann.publish(KEYS[0], "ben", b"ben-1", 60.0)
        await asyncio.sleep(0.6)
        assert await ben.look_up(KEYS[0]) == {"ben": b"ben-1"}


async def test_records_survive_the_loss_of_the_entry_node() -> None:
    async with swarm() as (ann, ben, cat):
        await ben.publish(KEYS[0], "ben", b"ben-1", 60.0)
        await ann.close()
        assert await cat.look_up(KEYS[0]) == {"ben": b"ben-1"}


async def test_an_entry_node_without_a_dht_is_one_clear_line() -> None:
    async with AsyncExitStack() as stack:
        ann, ben = [await Libp2pTransport.start(Identity(bytes([n]) * 32)) for n in (1, 2)]
        stack.push_async_callback(ann.close)
        stack.push_async_callback(ben.close)
        with pytest.raises(PeerUnreachable, match="no bootstrap node answered in the DHT"):
            await Libp2pDirectory.start(ben, keys=KEYS, check=owner_only, bootstrap=ann.addresses)


def _key_id(key: str) -> Any:
    return lean_hivemind.load().key_class.generate(source=key)


def _put(node: Libp2pDirectory, subkey: str, value: bytes, ttl_s: float) -> None:
    """Straight into one node's storage, past its checks."""
    packed = lean_hivemind.load().serializer_class.dumps(value)
    storage = node._node.protocol.storage
    storage.store_subkey(_key_id(KEYS[0]), subkey, packed, time.time() + ttl_s)
