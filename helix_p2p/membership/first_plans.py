"""The plans that convict whoever signs another of the same epoch.

Always: bounded in number and bytes, together and for each key, so that nobody who signs many or
large plans makes us forget another's; those of keys that nobody met, which cost nothing, are
forgotten first.
"""

from collections import OrderedDict
from collections.abc import Callable

from helix_p2p.identity import Signed
from helix_p2p.types import PeerId

MOST_PLANS = 256
LIMIT_BYTES = 32 * 1024 * 1024
"""A large swarm's plan is 100 kB."""
MOST_OF_ONE = 16
LIMIT_BYTES_OF_ONE = 2 * 1024 * 1024
"""An honest planner makes a plan now and then; its last ones are those that may still hold."""


class FirstPlans:
    """See the module's description.

    Args:
        met: Whether a key is, or was, a member's.
    """

    def __init__(self, met: Callable[[PeerId], bool]) -> None:
        self._met = met
        self._of: OrderedDict[PeerId, OrderedDict[int, Signed]] = OrderedDict()
        """By epoch; the key that was heard of last is the last."""
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    def other(self, record: Signed, epoch: int) -> Signed | None:
        """Another plan of this planner and epoch, if one is known; else this one is kept."""
        planner = record.signer
        plans = self._of.setdefault(planner, OrderedDict())
        self._of.move_to_end(planner)
        if epoch in plans:
            first = plans[epoch]
            return None if first.body == record.body else first
        plans[epoch] = record
        self._count += 1
        self._bytes += len(record.body)
        while len(plans) > MOST_OF_ONE or (len(plans) > 1 and _size(plans) > LIMIT_BYTES_OF_ONE):
            self._forget(planner)
        while self._count > MOST_PLANS or self._bytes > LIMIT_BYTES:
            strangers = (peer for peer in self._of if not self._met(peer))
            self._forget(next(strangers, next(iter(self._of))))
        return None

    def _forget(self, planner: PeerId) -> None:
        """The oldest of a key."""
        plans = self._of[planner]
        _, oldest = plans.popitem(last=False)
        self._count -= 1
        self._bytes -= len(oldest.body)
        if not plans:
            del self._of[planner]


def _size(plans: OrderedDict[int, Signed]) -> int:
    return sum(len(record.body) for record in plans.values())
