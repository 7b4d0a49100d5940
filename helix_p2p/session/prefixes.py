"""Prompts that begin alike: chains of hashes, and the caches a stage keeps in case they come back.

An entry peer names the beginning of a prompt by a chain of hashes, one for each whole block of
tokens, each over its block and the hash before it (the idea is vLLM's automatic prefix caching). A
stage keeps the cache of a session that ended well while nobody needs its room, copies the part that
a new session shares, and answers how many positions it has; the pipeline uses the least of all
stages. No stage needs to know a token for that.

Always: the chain begins with a secret of the entry peer, the client's identity and everything that
runs before the stage, so a match means the same tokens, of the same client, fed through the same
peers and layers: the copy holds what would be computed again, nobody learns from a match what
others ask, and what a bad stage spoiled stays with its own pipelines. Kept caches count as free
room: whatever is reserved goes before them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import takewhile

from helix_p2p.routing.route import Hop
from helix_p2p.types import LayerRange, PeerId, SessionId

PREFIX_BLOCK_TOKENS = 64
"""A prompt of 2000 tokens has 31 hashes, half a kilobyte in an `Open`."""
PREFIX_HASH_BYTES = 16
KEEP_S = 300.0
"""A reader's pause between two turns of a chat."""


def chain_of(
    secret: bytes, client: PeerId, tokens: Sequence[int], known: Sequence[bytes] = ()
) -> tuple[bytes, ...]:
    """A hash for each whole block of tokens.

    Args:
        secret: The entry peer's own, so that nobody else can tell which text a hash stands for.
        client: Whose tokens.
        tokens: From the first position on.
        known: The chain of a shorter beginning of the same tokens; it is not computed again.
    """
    hashes = list(known)
    before = hashes[-1] if hashes else client.encode()
    for number in range(len(hashes), len(tokens) // PREFIX_BLOCK_TOKENS):
        start = number * PREFIX_BLOCK_TOKENS
        block = b"".join(t.to_bytes(4, "little") for t in tokens[start:][:PREFIX_BLOCK_TOKENS])
        before = blake2b(before + block, key=secret, digest_size=PREFIX_HASH_BYTES).digest()
        hashes.append(before)
    return tuple(hashes)


def upstream_of(route: Sequence[Hop], index: int) -> bytes:
    """A hash of all that runs before a stage; the first link of the chain it is sent."""
    said = "".join(f"{hop.peer} {hop.layers.start} {hop.layers.end}\n" for hop in route[:index])
    return blake2b(said.encode(), digest_size=PREFIX_HASH_BYTES).digest()


def shared_positions(held: Sequence[bytes], wanted: Sequence[bytes], positions: int) -> int:
    """How much of a cache a session with another chain can take over.

    Args:
        held: The cache's chain; its first link is `upstream_of`.
        wanted: The new session's.
        positions: Written in the cache, from the first on.
    """
    if not held or held[0] != wanted[0]:
        return 0
    same = takewhile(lambda pair: pair[0] == pair[1], zip(held[1:], wanted[1:], strict=False))
    blocks = min(sum(1 for _ in same), positions // PREFIX_BLOCK_TOKENS)
    return blocks * PREFIX_BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class KvCopy:
    """Positions of another session's cache that a new one begins with."""

    source: SessionId
    positions: int


@dataclass(frozen=True, slots=True)
class KeptCache:
    """The cache of a session that ended.

    Attributes:
        owner: The entry peer, which alone may use it.
        layers: What it covers.
        chain: The first link is `upstream_of`.
        positions: Written, from the first on.
        token_layers: Room it takes.
        expires_s: None until the first tick.
    """

    owner: PeerId
    layers: LayerRange
    chain: tuple[bytes, ...]
    positions: int
    token_layers: int
    expires_s: float | None = None

    @property
    def is_useful(self) -> bool:
        """Whether any session could take anything over."""
        return len(self.chain) > 1 and self.positions >= PREFIX_BLOCK_TOKENS

    def shares(self, owner: PeerId, layers: LayerRange, wanted: Sequence[bytes]) -> int:
        """Positions that a session could take over."""
        if (owner, layers) != (self.owner, self.layers):
            return 0
        return shared_positions(self.chain, wanted, self.positions)


class KeptCaches:
    """Caches of ended sessions on one stage, in the order of their last use."""

    def __init__(self) -> None:
        self._kept: dict[SessionId, KeptCache] = {}
        self.token_layers = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, session: SessionId) -> bool:
        return session in self._kept

    def keep(self, session: SessionId, cache: KeptCache) -> list[SessionId]:
        """Keep a cache, and give up those that it makes needless.

        Returns:
            Sessions whose caches are to be closed.
        """
        needless = [
            other
            for other, held in self._kept.items()
            if len(held.chain) <= len(cache.chain)
            and cache.chain[: len(held.chain)] == held.chain
            and held.positions <= cache.positions
            and (held.owner, held.layers) == (cache.owner, cache.layers)
        ]
        self._kept[session] = cache
        self.token_layers += cache.token_layers
        return self._drop(needless)

    def find(self, owner: PeerId, layers: LayerRange, wanted: Sequence[bytes]) -> KvCopy | None:
        """The cache that shares most with a session's chain; it counts as used now."""
        best: KvCopy | None = None
        for session, held in self._kept.items():
            positions = held.shares(owner, layers, wanted)
            if positions > (best.positions if best else 0):
                best = KvCopy(session, positions)
        if best is not None:
            self._kept[best.source] = replace(self._kept.pop(best.source), expires_s=None)
        return best

    def forget(self, session: SessionId) -> list[SessionId]:
        """A session of this name begins anew; close what is returned."""
        return self._drop([session] if session in self._kept else [])

    def fit(self, token_layers: int) -> list[SessionId]:
        """Give up the oldest until the rest fits into so much room; close what is returned."""
        gone: list[SessionId] = []
        left = self.token_layers
        for session, held in self._kept.items():
            if left <= token_layers:
                break
            left -= held.token_layers
            gone.append(session)
        return self._drop(gone)

    def fit_layers(self, layers: LayerRange | None) -> list[SessionId]:
        """Give up what covers a layer outside `layers`; close what is returned."""
        return self._drop(
            [s for s, held in self._kept.items() if not (layers and layers.contains(held.layers))]
        )

    def tick(self, now_s: float) -> list[SessionId]:
        """Give up what nobody came back for; close what is returned."""
        for session, held in self._kept.items():
            if held.expires_s is None:
                self._kept[session] = replace(held, expires_s=now_s + KEEP_S)
        return self._drop([s for s, held in self._kept.items() if (held.expires_s or 0) <= now_s])

    def _drop(self, sessions: list[SessionId]) -> list[SessionId]:
        for session in sessions:
            self.token_layers -= self._kept.pop(session).token_layers
        return sessions
