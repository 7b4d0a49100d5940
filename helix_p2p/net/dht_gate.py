"""What the DHT lets in: every record through one check, every answer cut down to what passed.

hivemind asks a validator about records, and trusts the rest of what other nodes say. Here is what
that leaves open, and what closes it:

- one record that expired a moment ago, or fails in any way, voids the whole answer it came in, so
  all members of a shard vanish: records are judged one by one and only the bad ones dropped;
- an answer states its own expiry, and a search for the latest record ends with the first answer
  that states infinity: the expiry is taken from the records themselves;
- storing an older record again makes the storage forget the newer one when the older expires
  (`TimedStorage.store` moves the deadline before it compares): older ones do not reach the storage;
- a plain value replaces a whole dictionary: `check` is asked with no subkey, and refuses.

Signatures cost 0.1 ms and more, and a record is seen in every replica's answer, so what passed once
is remembered until it expires.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from helix_p2p.errors import RecordRejected
from helix_p2p.net.lean_hivemind import Hivemind

RECORDS_PER_KEY = 4096
"""More members than one shard can hold; a larger answer is an attack."""
REMEMBERED_RECORDS = 16384

RecordCheck = Callable[[str, str | None, bytes, float], object]
"""(key, subkey, value, expires in s); raises RecordRejected. The rules: membership/records.py."""


class Gate:
    """Takes the place of hivemind's record validator (its interface has no types).

    Args:
        library: hivemind.
        keys: All keys that may exist; the DHT knows them by hash only.
        check: The rules.
    """

    def __init__(self, library: Hivemind, keys: Sequence[str], check: RecordCheck) -> None:
        self._unpack = library.serializer_class.loads
        ids = {key: library.key_class.generate(source=key) for key in keys}
        self._key_of_id = {key_id.to_bytes(): (key_id, key) for key, key_id in ids.items()}
        self._check = check
        self._storage: Any = None
        self._passed: set[tuple[bytes, bytes, bytes, float]] = set()

    def watch(self, storage: Any) -> None:
        """Compare with what stands there from now on."""
        self._storage = storage

    def validate(self, record: Any) -> bool:
        """Whether a record (key, subkey, value: packed bytes; expiry: unix s) may stand."""
        name = (record.key, record.subkey, record.value, record.expiration_time)
        try:
            expires_in_s = float(record.expiration_time) - time.time()
            if not expires_in_s > 0 or record.key not in self._key_of_id:
                return False
            key_id, key = self._key_of_id[record.key]
            subkey, value = self._unpack(record.subkey), self._unpack(record.value)
            if self._is_older(key_id, subkey, record.expiration_time):
                return False
            if name not in self._passed:
                if not isinstance(value, bytes) or not isinstance(subkey, str | None):
                    return False
                self._check(key, subkey, value, expires_in_s)
                self._remember(name)
        except RecordRejected:
            return False
        except Exception:  # noqa: BLE001 - unpacking foreign bytes can fail in any way
            return False
        return True

    def sign_value(self, record: Any) -> bytes:
        """Our values are signed before they come here."""
        value: bytes = record.value
        return value

    def strip_value(self, record: Any) -> bytes:
        """And stay signed."""
        value: bytes = record.value
        return value

    def _is_older(self, key_id: Any, subkey: Any, expires_unix_s: float) -> bool:
        if self._storage is None:
            return False
        stored = self._storage.get(key_id)
        if stored is None or not hasattr(stored.value, "get"):
            return False
        current = stored.value.get(subkey)
        return current is not None and current.expiration_time > expires_unix_s

    def _remember(self, name: tuple[bytes, bytes, bytes, float]) -> None:
        if len(self._passed) >= REMEMBERED_RECORDS:
            now_s = time.time()
            self._passed = {known for known in self._passed if known[3] > now_s}
            if len(self._passed) >= REMEMBERED_RECORDS:
                self._passed.clear()
        self._passed.add(name)


def guard_answers(library: Hivemind, protocol: Any, gate: Gate) -> None:
    """Cut what other nodes answer or push down to the records that pass."""
    ask = protocol.call_find
    pack = library.serializer_class.dumps

    def keep_what_passes(key: bytes, dictionary: Any) -> bool:
        with dictionary.freeze():
            entries = list(dictionary.items())
        good = []
        for subkey, (value, expires_unix_s) in entries[:RECORDS_PER_KEY]:
            record = library.record_class(key, pack(subkey), value, expires_unix_s)
            if gate.validate(record):
                good.append((subkey, value, expires_unix_s))
        dictionary.clear()
        dictionary.maxsize = float("inf")
        dictionary.latest_expiration_time = float("-inf")
        for entry in good:
            dictionary.store(*entry)
        return bool(good)

    async def find(peer: Any, keys: Collection[Any]) -> Any:
        answer = await ask(peer, keys)
        if answer is None:
            return None
        return {key: (_true_expiry(library, item), near) for key, (item, near) in answer.items()}

    protocol._validate_dictionary = keep_what_passes  # noqa: SLF001 - hivemind has no seam for this
    protocol.call_find = find


def _true_expiry(library: Hivemind, item: Any) -> Any:
    if item is None or not isinstance(item.value, library.dictionary_class):
        return None
    return library.item_class(item.value, item.value.latest_expiration_time)
