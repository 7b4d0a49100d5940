"""The directory in memory: rules, expiry, latest wins."""

import pytest

from helix_p2p.errors import DeadlineExceeded, RecordRejected
from helix_p2p.net.dht import Directory, MemoryDirectory


def _owner_only(_key: str, subkey: str | None, value: bytes, _expires_in_s: float) -> None:
    if subkey is None or not value.startswith(subkey.encode()):
        raise RecordRejected("not the owner's")


async def test_records_are_checked_kept_by_subkey_and_expire() -> None:
    now_s = 100.0
    memory = MemoryDirectory(_owner_only, unix_s=lambda: now_s)
    directory: Directory = memory
    assert await directory.publish("k", "ann", b"ann-1", 10.0)
    assert await directory.publish("k", "ben", b"ben-1", 20.0)
    with pytest.raises(RecordRejected):
        await directory.publish("k", "ann", b"ben says", 30.0)
    assert not await directory.publish("k", "ben", b"ben-0", 5.0)
    assert await directory.look_up("k") == {"ann": b"ann-1", "ben": b"ben-1"}
    now_s = 111.0
    assert await directory.look_up("k") == {"ben": b"ben-1"}
    assert await directory.look_up("other") == {}
    memory.reachable = False
    with pytest.raises(DeadlineExceeded):
        await directory.look_up("k")
    await directory.close()
