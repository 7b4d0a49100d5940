"""Which peer a client asks: the plan's own shares, spread over many clients, around what failed.

The plan says how many tokens per second enter at each peer that holds layer 0; those flows are the
weights of an interleaved weighted round robin. Its first turn is drawn at random with the same
weights, so that a thousand one-shot clients spread the way one long-lived client does.

Always: only peers that announce that they serve a range starting at 0 are picked; peers to which
the plan gives no flow come after all others; a masked peer is picked only as the last resort, and
one that has become slow only where all others are masked; who answered a conversation's earlier
turns is preferred as far as shares allow.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from helix_p2p.cluster.announcement import Announcement
from helix_p2p.planning.plan import Placement
from helix_p2p.routing.iwrr import InterleavedRoundRobin
from helix_p2p.routing.masks import Masks
from helix_p2p.routing.slowness import SlowPeers
from helix_p2p.session.familiar import Familiar
from helix_p2p.session.prefixes import chain_of
from helix_p2p.types import PeerId, SessionId

SHORTEST_MASK_S = 4.0
"""A peer that failed is left alone this long: about the time the swarm needs to see it gone."""

_ANYBODY = PeerId("")
"""Chains that stay in a client need no owner."""


@dataclass(frozen=True, slots=True)
class EntryCandidate:
    """A peer that can start a pipeline.

    Attributes:
        peer: Who.
        weight: The plan's flow into it, thousandths of a token per second; 0 when it has none.
        addresses: Where it is to be reached.
    """

    peer: PeerId
    weight: int
    addresses: tuple[str, ...] = ()


def entry_candidates(
    placement: Placement | None, announced: Iterable[tuple[PeerId, Announcement]]
) -> tuple[EntryCandidate, ...]:
    """Peers that serve layer 0 now, with the plan's flow from the clients' side as weights.

    Args:
        placement: The current plan's decision; None when no plan is known.
        announced: Fresh, verified announcements of one model.
    """
    weights: dict[PeerId, int] = {}
    for flow in placement.flows if placement else ():
        if flow.source is None and flow.target is not None:
            weights[flow.target] = weights.get(flow.target, 0) + flow.mtokens_per_s
    return tuple(
        EntryCandidate(peer, weights.get(peer, 0), said.addresses)
        for peer, said in sorted(announced, key=lambda item: item[0])
        if said.routable is not None and said.routable.start == 0
    )


class EntryChoice:
    """Picks entry peers for all sessions of one client.

    Args:
        random: For the first turn.
        remembers: Whether conversations go back to the entry peer that they know.
    """

    def __init__(self, random: Random, *, remembers: bool = True) -> None:
        self._random = random
        self._remembers = remembers
        self._familiar: Familiar[PeerId] = Familiar()
        self._candidates: dict[PeerId, EntryCandidate] = {}
        self._turns: InterleavedRoundRobin[PeerId] = InterleavedRoundRobin()
        self._masks: Masks[PeerId] = Masks(shortest_s=SHORTEST_MASK_S)
        self._slow = SlowPeers()
        self._started = False

    @property
    def candidates(self) -> tuple[EntryCandidate, ...]:
        """Whom the client knows."""
        return tuple(self._candidates.values())

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        """Where a candidate is to be reached; empty for any other peer."""
        known = self._candidates.get(peer)
        return known.addresses if known else ()

    def update(self, candidates: Iterable[EntryCandidate]) -> None:
        """Take a new view of the swarm; peers that stay keep their turn."""
        self._candidates = {candidate.peer: candidate for candidate in candidates}
        weights = {c.peer: float(max(1, c.weight)) for c in self._candidates.values()}
        self._turns.set_weights(weights)

    def mask(self, peer: PeerId, now_s: float) -> None:
        """The peer failed: leave it alone for a while, twice as long each time."""
        self._masks.fail(peer, now_s)

    def clear(self, peer: PeerId) -> None:
        """The peer gave tokens; whatever it was is over."""
        self._masks.succeed(peer)

    def masked(self, now_s: float) -> frozenset[PeerId]:
        """Peers that failed this client lately."""
        return self._masks.masked(now_s)

    def token(self, session: SessionId, peer: PeerId, now_s: float) -> None:
        """The peer gave a token."""
        self._slow.token(session, (peer,), now_s)

    def over(self, session: SessionId) -> None:
        """A peer's part of an answer is over."""
        self._slow.over(session)

    def answered(self, tokens: Sequence[int], peer: PeerId) -> None:
        """A conversation so far, prompt and answer, and the entry peer that gave the answer."""
        if self._remembers:
            self._familiar.remember(chain_of(b"", _ANYBODY, tokens), peer)

    def pick(
        self, now_s: float, exclude: Collection[PeerId] = (), tokens: Sequence[int] = ()
    ) -> PeerId | None:
        """The next entry peer that is neither masked nor excluded, rather not a slow one.

        Args:
            now_s: Now.
            exclude: Whom not to pick.
            tokens: What is to be fed there.
        """
        masked = self.masked(now_s)
        usable = {p for p in self._candidates if p not in masked and p not in exclude}
        known = self._familiar.find(chain_of(b"", _ANYBODY, tokens)) if self._familiar else None
        brisk = usable - self._slow.slow(now_s)
        return self._next(brisk - {self._slow.suspect(now_s)} or brisk or usable, known)

    def pick_last_resort(self) -> PeerId | None:
        """The next entry peer, masked or not; None only when none is known."""
        return self._next(set(self._candidates))

    def _next(self, allowed: set[PeerId], preferred: PeerId | None = None) -> PeerId | None:
        planned = {peer for peer in allowed if self._candidates[peer].weight > 0}
        allowed = planned or allowed
        if allowed and not self._started:
            self._started = True
            order = sorted(allowed)
            weights = [self._turns.weights[peer] for peer in order]
            allowed = {self._random.choices(order, weights)[0]}
        return self._turns.choose(allowed, preferred=preferred)
