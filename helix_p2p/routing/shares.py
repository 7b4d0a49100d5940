"""Fair shares of a stage's KV cache between entry peers, binding only while somebody goes short.

An entry peer alone may fill a stage. When another one is turned away while it holds less than an
equal share, nobody else gets more than a share until it has its own, and if it still has not after
`patience_s`, because sessions are long, or idle on purpose, the newest session of whoever holds
most is ended. (Max-min fairness at admission; Demers, Keshav and Shenker 1989 give the idea for
links. Ending the newest loses the least work.)

Always: what stays within a share is neither refused nor ended by this rule; the one that has gone
short for longest gets whatever room there is; one that no longer asks is forgotten after
`memory_s`; nothing is ended while there is room for one that waits.
"""

from dataclasses import dataclass

from helix_p2p.errors import Busy
from helix_p2p.routing.admission import KvLedger
from helix_p2p.types import PeerId, SessionId


@dataclass(slots=True)
class _Short:
    """An entry peer that was turned away."""

    since_s: float
    last_s: float
    token_layers: int


class FairShares:
    """Who goes short here, and who is to make room.

    Args:
        ledger: Who holds what.
        patience_s: How long one may go short before another's session is ended for it.
        memory_s: Longer than entry peers pause between two tries.
    """

    def __init__(
        self, ledger: KvLedger, *, patience_s: float = 10.0, memory_s: float = 5.0
    ) -> None:
        self._ledger = ledger
        self._patience_s = patience_s
        self._memory_s = memory_s
        self._short: dict[PeerId, _Short] = {}

    def reserve(
        self, session: SessionId, owner: PeerId, token_layers: int, now_s: float, expires_s: float
    ) -> None:
        """Reserve in the ledger, unless it is another's turn.

        Raises:
            Busy: There is no room, or what there is belongs to one that goes short.
        """
        try:
            self._check_turn(owner, token_layers, now_s)
            self._ledger.reserve(session, owner, token_layers, expires_s)
        except Busy:
            known = self._short.get(owner)
            since_s = known.since_s if known else now_s
            self._short[owner] = _Short(since_s, now_s, token_layers)
            raise
        if self._ledger.used_by.get(owner, 0) >= self._share(now_s, owner):
            self._short.pop(owner, None)

    def to_end(self, now_s: float) -> SessionId | None:
        """The session to be ended for one that has waited too long, if it has come to that."""
        needy = self._needy(now_s)
        waiting = [s for s in needy.values() if now_s - s.since_s >= self._patience_s]
        if not waiting or self._ledger.free_token_layers >= min(s.token_layers for s in waiting):
            return None
        share = self._share(now_s)
        used = self._ledger.used_by
        rich = [peer for peer, held in used.items() if held > share and peer not in needy]
        if not rich:
            return None
        richest = max(rich, key=lambda peer: (used[peer], peer))
        theirs = [s for s, held in self._ledger.reservations.items() if held.owner == richest]
        return theirs[-1]

    def _check_turn(self, owner: PeerId, token_layers: int, now_s: float) -> None:
        needy = self._needy(now_s)
        if not needy or owner == min(needy, key=lambda peer: (needy[peer].since_s, peer)):
            return
        if self._ledger.used_by.get(owner, 0) + token_layers > self._share(now_s, owner):
            raise Busy("others have waited for their share of it", retry_after_s=2.0)

    def _needy(self, now_s: float) -> dict[PeerId, _Short]:
        """Those that were turned away lately and hold less than their share."""
        for peer in [p for p, s in self._short.items() if now_s - s.last_s > self._memory_s]:
            del self._short[peer]
        share = self._share_among(len(self._ledger.used_by.keys() | self._short.keys()))
        used = self._ledger.used_by
        return {peer: s for peer, s in self._short.items() if used.get(peer, 0) < share}

    def _share(self, now_s: float, *more: PeerId) -> int:
        return self._share_among(
            len(self._ledger.used_by.keys() | self._needy(now_s).keys() | {*more})
        )

    def _share_among(self, parties: int) -> int:
        return self._ledger.capacity_token_layers // max(1, parties)
