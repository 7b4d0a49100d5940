"""The swarm's meeting place in virtual time: a table that answers as the DHT's nodes would.

Always: what is stored passed the validator that real DHT nodes run (`membership.records`); what has
expired is not found.
"""

from collections.abc import Collection

from helix_p2p import codec
from helix_p2p.identity import Signed
from helix_p2p.membership.records import RecordRules, check_record

AROUND_A_RECORD_BYTES = 160
"""Key, signature and frame of an answer."""

_Shard = dict[str, tuple[Signed, float]]


class Directory:
    """See the module's description.

    Args:
        swarm: Whose records, those of all its cells.
        began_unix_s: What the nodes' clocks show at time 0.
    """

    def __init__(self, swarm: str, began_unix_s: float) -> None:
        self._rules = RecordRules(swarm)
        self._began_unix_s = began_unix_s
        self._shards: dict[str, tuple[int, _Shard]] = {}
        self.carried_bytes = 0
        """Stored and found so far."""

    def store(
        self, key: str, subkey: str, record: Signed, expires_in_s: float, now_s: float
    ) -> None:
        """Keep a record for so long.

        Raises:
            RecordRejected: It may not stand there.
        """
        value, unix_s = codec.encode(record), self._began_unix_s + now_s
        check_record(key, subkey, value, expires_in_s, rules=self._rules, now_unix_s=unix_s)
        _, shard = self._shards.setdefault(key, (len(self._shards), {}))
        shard[subkey] = (record, now_s + expires_in_s)
        self.carried_bytes += len(value)

    def look_up(self, keys: Collection[str], now_s: float) -> list[Signed]:
        """Every record under these keys that has not expired, the first shard's first."""
        shards = [self._shards[key] for key in keys if key in self._shards]
        shards.sort(key=_number)
        found = [
            record for _, shard in shards for record, until_s in shard.values() if until_s > now_s
        ]
        self.carried_bytes += sum(len(record.body) + AROUND_A_RECORD_BYTES for record in found)
        return found


def _number(shard: tuple[int, _Shard]) -> int:
    """Shards count in the order in which they came to be."""
    return shard[0]
