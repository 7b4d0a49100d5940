"""What a new session takes over from others on this stage, and which caches are kept for that.

The best beginning may lie in the cache of a session that runs, as far as it is written, or of one
that ended well and is kept (`prefixes.py` says what makes two prompts alike).

Always: what is reserved in the ledger goes before what is kept; nothing is copied from a cache that
made room for its copy.
"""

from collections.abc import Callable, Mapping, Sequence

from helix_p2p.routing.admission import KvLedger, token_layers_of
from helix_p2p.session.effects import CloseCache
from helix_p2p.session.messages import Open
from helix_p2p.session.prefixes import (
    PREFIX_BLOCK_TOKENS,
    KeptCache,
    KeptCaches,
    KvCopy,
    shared_positions,
)
from helix_p2p.session.stage_session import StageSession
from helix_p2p.types import LayerRange, SessionId


def cache_of(open_: Open, chain: Sequence[bytes], written: int) -> KeptCache | None:
    """The cache of a session that ended well; None when nobody could begin with it.

    Args:
        open_: The session.
        chain: What its positions are, as its entry peer says.
        written: Positions in the cache, from the first on without a gap.
    """
    room = token_layers_of(open_.kv_tokens, open_.layers)
    cache = KeptCache(open_.entry, open_.layers, tuple(chain), written, room)
    longest = 1 + open_.kv_tokens // PREFIX_BLOCK_TOKENS
    return cache if cache.is_useful and len(chain) <= longest else None


class Reuse:
    """The caches that one stage keeps, and what sessions begin with.

    Args:
        ledger: What is free there is room for kept caches.
    """

    def __init__(self, ledger: KvLedger) -> None:
        self._ledger = ledger
        self._kept = KeptCaches()

    def __len__(self) -> int:
        return len(self._kept)

    def begin(
        self,
        message: Open,
        running: Mapping[SessionId, StageSession],
        written: Callable[[StageSession], int],
    ) -> tuple[KvCopy | None, list[CloseCache]]:
        """What a session whose room is reserved now begins with.

        Args:
            message: What it asks for.
            running: Sessions that are open.
            written: How much of a session's cache is written.

        Returns:
            The copy, and what is to be closed before.
        """
        copy = self._best(message, running, written) if message.prefix else None
        gone = _closings(self._kept.forget(message.session)) + self.fit()
        if copy is not None and not (copy.source in running or copy.source in self._kept):
            copy = None  # its room was needed
        return copy, gone

    def keep(self, session: SessionId, cache: KeptCache) -> list[CloseCache]:
        """Keep the cache of a session that ended; its room in the ledger is free already."""
        return _closings(self._kept.keep(session, cache)) + self.fit()

    def fit(self) -> list[CloseCache]:
        """Give up the oldest until the rest fits into the room that is free."""
        return _closings(self._kept.fit(self._ledger.free_token_layers))

    def fit_layers(self, layers: LayerRange | None) -> list[CloseCache]:
        """Give up what covers a layer that is not served any more."""
        return _closings(self._kept.fit_layers(layers))

    def forget_all(self) -> list[CloseCache]:
        """Give up everything."""
        return _closings(self._kept.fit(0))

    def tick(self, now_s: float) -> list[CloseCache]:
        """Give up what nobody came back for, or what there is no room for."""
        return _closings(self._kept.tick(now_s)) + self.fit()

    def _best(
        self,
        message: Open,
        running: Mapping[SessionId, StageSession],
        written: Callable[[StageSession], int],
    ) -> KvCopy | None:
        best = self._kept.find(message.entry, message.layers, message.prefix)
        for session, known in running.items():
            if (known.open.entry, known.open.layers) != (message.entry, message.layers):
                continue
            if known.open.prefix[:1] != message.prefix[:1] or session == message.session:
                continue
            shared = shared_positions(known.open.prefix, message.prefix, written(known))
            if shared > (best.positions if best else 0):
                best = KvCopy(session, shared)
        return best


def _closings(sessions: list[SessionId]) -> list[CloseCache]:
    return [CloseCache(session) for session in sessions]
