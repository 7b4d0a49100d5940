"""Where a prompt's beginning was computed lately, so that the next turn of a chat goes there again.

What stages keep of a prompt (`prefixes.py`) serves only who comes back by the same way: to the same
entry peer, over the same peers. In a wide swarm chance decides that, so a client remembers which
entry peer answered a conversation, and an entry peer over which route. Always: only a preference.
Turns are charged as ever (`routing/iwrr.py`), whoever is masked is not preferred, and what is
remembered is bounded; who is longest unused is forgotten first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_BLOCKS = 8_192
"""A few hundred chats of a thousand tokens; about a megabyte."""


class Familiar(Generic[T]):
    """What served which beginning last."""

    def __init__(self, most: int = MOST_BLOCKS) -> None:
        self._most = most
        self._by_block: OrderedDict[bytes, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_block)

    def remember(self, chain: Sequence[bytes], what: T) -> None:
        """This served what begins so.

        Args:
            chain: A hash for each block, each over all before it (`prefixes.chain_of`).
            what: A route, or an entry peer.
        """
        for link in chain[-self._most :]:
            self._by_block[link] = what
            self._by_block.move_to_end(link)
        while len(self._by_block) > self._most:
            self._by_block.popitem(last=False)

    def find(self, chain: Sequence[bytes]) -> T | None:
        """What served the longest beginning of this; None when none is known."""
        return next(
            (self._by_block[link] for link in reversed(chain) if link in self._by_block), None
        )
