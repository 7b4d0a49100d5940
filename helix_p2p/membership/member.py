"""One member of a swarm, as a machine: who is alive, who plans, which plan holds.

Inputs are method calls, each with the time; each returns the effects to be carried out, in order
(the shape is etcd-io/raft's: messages and ticks in, what to persist and send out). The node calls
`tick` several times a second, hands in every membership message, the DHT's answers and broken
links, and says when this peer's own state changes.

Always: nothing here waits, and nothing is sent or stored except through an effect.
"""

from collections.abc import Iterable
from random import Random

from helix_p2p.errors import HelixError
from helix_p2p.identity import Signed
from helix_p2p.membership.effects import Effect, MemberMessage
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.membership.timing import Now
from helix_p2p.planning.plan import Placement
from helix_p2p.types import PeerId

Effects = tuple[Effect, ...]


class Member:
    """See the module's description.

    Args:
        config: What does not change.
        rng: Chance: ping targets and jitter.
    """

    def __init__(self, config: MemberConfig, rng: Random) -> None:
        self.config = config
        self.rng = rng

    def tick(self, now: Now) -> Effects:
        """Time passes; call it every 0.1–0.5 s."""
        raise NotImplementedError

    def set_own(self, own: OwnState, now: Now) -> Effects:
        """This peer's state changed; it is announced at once."""
        raise NotImplementedError

    def leave(self, now: Now) -> Effects:
        """Last words: tell everyone that this peer has left. Ticks have no effect after it."""
        raise NotImplementedError

    def on_message(self, peer: PeerId, message: MemberMessage, now: Now) -> Effects:
        """A message from an authenticated, admitted peer."""
        raise NotImplementedError

    def on_records(self, records: Iterable[Signed], now: Now) -> Effects:
        """What a look-up found in the DHT, or a cache on disk; also when it found nothing."""
        raise NotImplementedError

    def on_peer_lost(self, peer: PeerId, now: Now) -> Effects:
        """An open stream broke or fell silent: the peer is probed, and gone if that fails."""
        raise NotImplementedError

    def on_unreachable(self, peer: PeerId, now: Now) -> Effects:
        """A `SendTo` could not be delivered: the dial failed."""
        raise NotImplementedError

    def on_high_water_persisted(self, plan_hash: bytes, now: Now) -> Effects:
        """The mark of this plan is on disk."""
        raise NotImplementedError

    def on_high_water_failed(self, plan_hash: bytes, now: Now) -> Effects:
        """The mark could not be written; the plan is not adopted."""
        raise NotImplementedError

    def on_plan_solved(self, request: int, placement: Placement, now: Now) -> Effects:
        """The solver's answer to `StartPlanning`."""
        raise NotImplementedError

    def on_plan_failed(self, request: int, error: HelixError, now: Now) -> Effects:
        """The solver found nothing, and why."""
        raise NotImplementedError
