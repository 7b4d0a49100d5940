"""The DHT, where members find each other: signed records under known keys, each with its owner.

`Directory` is the seam. The real one is hivemind's Kademlia node (Maymounkov & Mazières 2002) in
our own event loop, over the transport's libp2p; hivemind's `DHT` class would fork a process. How
records are judged, and what of hivemind is not trusted: `dht_gate.py`.

Always: nothing that fails `check` is stored, passed on as found, or returned; every call has a
deadline. The DHT is not linearizable: a look-up can miss what was just stored.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from helix_p2p.errors import DeadlineExceeded, PeerUnreachable
from helix_p2p.net import lean_hivemind
from helix_p2p.net.dht_gate import Gate, RecordCheck, guard_answers
from helix_p2p.net.libp2p import Libp2pTransport, peer_of_address
from helix_p2p.types import PeerId

RPC_TIMEOUT_S = 3.0
CALL_TIMEOUT_S = 10.0
BOOTSTRAP_ATTEMPTS = 3
REFRESH_S = 60.0
"""A random look-up this often keeps the routing table fresh and a quiet node known. (hivemind's own
refresh ends with a TypeError: it passes one id where a list is due.)"""
REPLICAS = 5
BLACKLIST_S = 2.0
LAST_CALLS_S = 1.0
"""What runs when we leave the DHT may end for so long."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Directory(Protocol):
    """Signed records by key and subkey, kept by the swarm for a while."""

    async def publish(self, key: str, subkey: str, value: bytes, ttl_s: float) -> bool:
        """Store a record.

        Args:
            key: One of the known keys.
            subkey: Its owner's peer id.
            value: Signed bytes.
            ttl_s: How long it is to stand.

        Returns:
            Whether at least one node took it (ourselves included).

        Raises:
            RecordRejected: Our own rules refuse it.
            DeadlineExceeded: The DHT did not answer in time.
        """

    async def look_up(self, key: str) -> Mapping[str, bytes]:
        """The records under a key by subkey, the latest that can be found.

        Raises:
            DeadlineExceeded: The DHT did not answer in time.
        """

    async def close(self) -> None:
        """Leave the DHT; the transport stays."""


class MemoryDirectory:
    """The directory of tests and simulations; several members share one."""

    def __init__(self, check: RecordCheck, *, unix_s: Callable[[], float] = time.time) -> None:
        self._check = check
        self._unix_s = unix_s
        self._records: dict[str, dict[str, tuple[float, bytes]]] = {}
        self.reachable = True

    async def publish(self, key: str, subkey: str, value: bytes, ttl_s: float) -> bool:
        """Store a record; see `Directory.publish`."""
        self._check(key, subkey, value, ttl_s)
        if not self.reachable:
            raise DeadlineExceeded("the DHT does not answer")
        records = self._records.setdefault(key, {})
        expires_s = self._unix_s() + ttl_s
        if subkey in records and records[subkey][0] > expires_s:
            return False
        records[subkey] = (expires_s, value)
        return True

    async def look_up(self, key: str) -> Mapping[str, bytes]:
        """Records that have not expired; see `Directory.look_up`."""
        if not self.reachable:
            raise DeadlineExceeded("the DHT does not answer")
        now_s = self._unix_s()
        records = self._records.get(key, {})
        return {subkey: value for subkey, (until_s, value) in records.items() if until_s > now_s}

    async def close(self) -> None:
        """Nothing to do."""


class Libp2pDirectory:
    """The real one."""

    def __init__(
        self,
        transport: Libp2pTransport,
        library: lean_hivemind.Hivemind,
        node: Any,
        check: RecordCheck,
    ) -> None:
        self._transport = transport
        self._library = library
        self._node = node
        self._check = check
        self._calls: set[asyncio.Task[Any]] = set()
        self._refreshing = asyncio.create_task(self._refresh())

    @classmethod
    async def start(
        cls,
        transport: Libp2pTransport,
        *,
        keys: Sequence[str],
        check: RecordCheck,
        bootstrap: Sequence[str] = (),
        may_be_first: bool = False,
        client_only: bool = False,
    ) -> "Libp2pDirectory":
        """Join the DHT.

        Args:
            transport: Whose libp2p to use; it has reached the bootstrap nodes at its start.
            keys: All that may exist; a DHT knows keys by hash, `check` by text.
            check: The rules.
            bootstrap: Multiaddrs of nodes to enter by; empty for the first node.
            may_be_first: Go on even if none of them answers.
            client_only: Store nothing for others and be in nobody's routing table.

        Raises:
            PeerUnreachable: No bootstrap node answered in the DHT.
        """
        library = lean_hivemind.load()
        gate = Gate(library, keys, check)
        node = await library.node_class.create(
            p2p=transport.hivemind_p2p,
            node_id=library.key_class.generate(source=transport.peer_id),
            wait_timeout=RPC_TIMEOUT_S,
            num_replicas=REPLICAS,
            cache_locally=False,
            cache_on_store=False,
            cache_nearest=0,
            reuse_get_requests=False,
            blacklist_time=BLACKLIST_S,
            record_validator=gate,
            client_mode=client_only,
        )
        gate.watch(node.protocol.storage)
        guard_answers(library, node.protocol, gate)
        self = cls(transport, library, node, check)
        peers = [peer for peer in map(peer_of_address, bootstrap) if peer != transport.peer_id]
        try:
            if peers:
                try:
                    await self._enter(peers)
                except PeerUnreachable:
                    if not may_be_first:
                        raise
        except BaseException:
            await asyncio.shield(self.close())
            raise
        return self

    async def enter(self, bootstrap: Sequence[str]) -> None:
        """Enter by these nodes (again), e.g. after all neighbours were gone.

        Raises:
            PeerUnreachable: None answered.
        """
        await self._transport.reach(bootstrap)
        await self._enter([peer_of_address(address) for address in bootstrap])

    @property
    def neighbours(self) -> int:
        """How many other DHT nodes we know."""
        return len(self._node.protocol.routing_table.uid_to_peer_id)

    async def publish(self, key: str, subkey: str, value: bytes, ttl_s: float) -> bool:
        """Store a record; see `Directory.publish`."""
        self._check(key, subkey, value, ttl_s)
        stored: bool = await self._in_time(
            self._node.store(key, value, expiration_time=time.time() + ttl_s, subkey=subkey),
            f"storing under {key}",
        )
        return stored

    async def look_up(self, key: str) -> Mapping[str, bytes]:
        """Records under a key; see `Directory.look_up`."""
        found = await self._in_time(self._node.get(key, latest=True), f"looking up {key}")
        if found is None or not isinstance(found.value, dict):
            return {}
        return {
            subkey: item.value
            for subkey, item in found.value.items()
            if isinstance(subkey, str) and isinstance(item.value, bytes)
        }

    async def close(self) -> None:
        """Leave the DHT; the transport stays."""
        self._node.is_alive = False
        self._refreshing.cancel()
        await asyncio.gather(self._refreshing, return_exceptions=True)
        if self._calls:
            await asyncio.wait(self._calls, timeout=LAST_CALLS_S)
        with contextlib.suppress(Exception):  # the daemon may be gone, and its errors are many
            async with asyncio.timeout(RPC_TIMEOUT_S):
                await self._node.shutdown()

    async def _enter(self, peers: Sequence[PeerId]) -> None:
        """Ping all at once; the first that answers lets us in."""
        peer_ids = [self._library.peer_id_class.from_base58(peer) for peer in peers]
        protocol = self._node.protocol
        for _ in range(BOOTSTRAP_ATTEMPTS):
            pings = [asyncio.create_task(protocol.call_ping(peer_id)) for peer_id in peer_ids]
            try:
                for ping in asyncio.as_completed(pings):
                    if await ping is not None:
                        await self._meet_neighbours()
                        return
            finally:
                for task in pings:
                    task.cancel()
        raise PeerUnreachable(
            f"no bootstrap node answered in the DHT ({len(peers)} tried)",
            hint="check that the bootstrap node runs and is of the same version",
        )

    async def _meet_neighbours(self) -> None:
        """Look ourselves up, which fills the routing table."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RPC_TIMEOUT_S):
                await self._node.find_nearest_nodes([self._node.node_id])

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S * random.uniform(0.8, 1.2))
            with contextlib.suppress(DeadlineExceeded):
                somewhere = self._library.key_class.generate()
                await self._in_time(
                    self._node.find_nearest_nodes([somewhere]), "refreshing the DHT"
                )

    async def _in_time(self, call: Coroutine[Any, Any, T], what: str) -> T:
        """Wait for hivemind, but never cancel it: a search that is cancelled leaves tasks behind.

        All that it asks of others has a deadline, so it ends by itself.
        """
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._over)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{what} took more than {CALL_TIMEOUT_S:g} s") from error

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # told to those who wait; nobody may be left
