"""Effects that wait for the end of an input.

The parts of a member share one, so what they decide goes out in the order in which they decided.

Always: an input gives each effect once; nothing is left when it ends.
"""

from collections.abc import Iterable

from helix_p2p.membership.effects import Effect, MemberMessage, SendTo
from helix_p2p.types import PeerId

Effects = tuple[Effect, ...]


class Outbox:
    """See the module's description."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def put(self, effect: Effect) -> None:
        """One more."""
        self._effects.append(effect)

    def extend(self, effects: Iterable[Effect]) -> None:
        """Some more, in order."""
        self._effects.extend(effects)

    def send(self, peer: PeerId, message: MemberMessage) -> None:
        """A message to one."""
        self._effects.append(SendTo(peer, message))

    def tell(self, peers: Iterable[PeerId], message: MemberMessage) -> None:
        """The same message to several."""
        self._effects.extend(SendTo(peer, message) for peer in peers)

    def drain(self) -> Effects:
        """What the input has led to."""
        effects, self._effects = tuple(self._effects), []
        return effects
