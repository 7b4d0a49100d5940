"""Three attacks on a DHT node: hivemind's own validator lets them through, ours does not.

The victim is a real node of either kind, the attacker stores on it over libp2p. The stock node's
honest record is even signed, under a subkey that names its owner's key as hivemind means it.
"""

import importlib
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from helix_p2p import codec
from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.identity import Identity
from helix_p2p.membership.credentials import open_swarm_id_of
from helix_p2p.membership.records import RecordRules, allowed_keys, check_record, member_key
from helix_p2p.net import lean_hivemind
from helix_p2p.net.dht import Libp2pDirectory
from helix_p2p.net.libp2p import Libp2pTransport

SWARM = open_swarm_id_of("attacked")
ANN = Identity(b"a" * 32)
KEY = member_key(SWARM, ANN.peer_id)
BOMB = 2_000


@dataclass
class Attacked:
    """A node with one honest record, and the attacker's way to it."""

    node: Any
    attacker: Any
    honest: str

    async def store(self, value: object, expires_unix_s: float, subkey: str | None) -> bool:
        library = lean_hivemind.load()
        packed = library.serializer_class.dumps(value)
        key_id = library.key_class.generate(source=KEY)
        taken = await self.attacker._node.protocol.call_store(
            self.node.peer_id, [key_id], [packed], [expires_unix_s], subkeys=[subkey]
        )
        return bool(taken and taken[0])

    @property
    def kept(self) -> Any:
        """What stands under the key: (value, expiry); the value is a dictionary of subkeys."""
        return self.node.protocol.storage.get(lean_hivemind.load().key_class.generate(source=KEY))

    def honest_stands(self) -> bool:
        return hasattr(self.kept.value, "get") and self.kept.value.get(self.honest) is not None


def announcement() -> bytes:
    said = Announcement(1, 1, time.time(), "ab" * 32, PeerState.STANDBY, 1)
    return codec.encode(said.signed(ANN, SWARM))


@asynccontextmanager
async def attacked(kind: str) -> AsyncIterator[Attacked]:
    async with AsyncExitStack() as stack:
        transports = []
        for number in range(2):
            transport = await Libp2pTransport.start(
                Identity(bytes([number + 1]) * 32),
                bootstrap=transports[0].addresses if transports else (),
            )
            stack.push_async_callback(transport.close)
            transports.append(transport)
        here, there = transports
        expires_unix_s = time.time() + 60.0
        if kind == "stock":
            crypto = importlib.import_module("hivemind.dht.crypto")
            validator = crypto.RSASignatureValidator()
            node = await lean_hivemind.load().node_class.create(
                p2p=here.hivemind_p2p, record_validator=validator
            )
            stack.push_async_callback(node.shutdown)
            honest = "ann" + validator.local_public_key.decode()
            value: Any = b"ann was here"
        else:
            ours = await Libp2pDirectory.start(here, keys=allowed_keys(SWARM), check=_check)
            stack.push_async_callback(ours.close)
            node, honest, value = ours._node, str(ANN.peer_id), announcement()
        assert await node.store(KEY, value, expires_unix_s, subkey=honest)
        attacker = await Libp2pDirectory.start(
            there,
            keys=allowed_keys(SWARM),
            check=lambda *_: None,
            bootstrap=here.addresses,
        )
        stack.push_async_callback(attacker.close)
        victim = Attacked(node, attacker, honest)
        assert victim.honest_stands()
        yield victim


def _check(key: str, subkey: str | None, value: bytes, expires_in_s: float) -> object:
    rules = RecordRules(SWARM)
    return check_record(key, subkey, value, expires_in_s, rules=rules, now_unix_s=time.time())


both = pytest.mark.parametrize(("kind", "falls"), [("stock", True), ("ours", False)])


@both
async def test_unsigned_plain_value_that_replaces_everyones_records(kind: str, falls: bool) -> None:
    async with attacked(kind) as victim:
        taken = await victim.store("all mine", time.time() + 90.0, None)
        assert taken == falls
        assert victim.honest_stands() != falls


@both
async def test_record_that_never_expires(kind: str, falls: bool) -> None:
    async with attacked(kind) as victim:
        # good but for its expiry
        assert await victim.store(announcement(), math.inf, ANN.peer_id) == falls
        assert math.isinf(victim.kept.expiration_time) == falls
        assert victim.honest_stands()


@both
async def test_bomb_of_subkeys_by_one_who_owns_none(kind: str, falls: bool) -> None:
    async with attacked(kind) as victim:
        library = lean_hivemind.load()
        packed = library.serializer_class.dumps(b"x" * 100)
        key_id = library.key_class.generate(source=KEY)
        names = [f"member {number}" for number in range(BOMB)]
        await victim.attacker._node.protocol.call_store(
            victim.node.peer_id,
            [key_id] * BOMB,
            [packed] * BOMB,
            [time.time() + 60.0] * BOMB,
            subkeys=names,
        )
        assert len(victim.kept.value) == (BOMB + 1 if falls else 1)
        assert victim.honest_stands()
