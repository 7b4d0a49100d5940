"""The pipelines that an entry peer's generations are on, from the first `Open` to the last `Close`.

What goes to the stages goes from here, and so does what limits it: how much prefill is on its way
(`prefill_window.py`) and how many decode frames (`window.py`).

Always: a pipeline's name is new, drawn at random and known here from its opening to its end; what
names another attempt is nobody's; a pipeline counts in each window from its opening to its end and
no longer; the caches that stages may keep are named by a chain under this peer's own secret.
"""

from collections.abc import Callable, Container
from random import Random

from helix_p2p.routing.route import Route
from helix_p2p.session import frames
from helix_p2p.session.effects import Send
from helix_p2p.session.familiar import Familiar
from helix_p2p.session.generation import EntryLimits, Generation
from helix_p2p.session.prefill_window import PrefillWindow
from helix_p2p.session.prefixes import PREFIX_BLOCK_TOKENS, PREFIX_HASH_BYTES, chain_of
from helix_p2p.session.window import DecodeWindows
from helix_p2p.types import SESSION_ID_BYTES, PeerId, SessionId


class Pipelines:
    """All pipelines of one entry peer.

    Args:
        me: This peer, every pipeline's first stage.
        random: For names, which others should not be able to foresee.
        limits: Sizes of chunks and batches, and whether stages may reuse what they kept.
    """

    def __init__(self, me: PeerId, random: Random, limits: EntryLimits) -> None:
        self._me = me
        self._random = random
        self._secret = random.randbytes(PREFIX_HASH_BYTES)
        self._limits = limits
        self._by_name: dict[SessionId, Generation] = {}
        self._windows = DecodeWindows()
        self._prefills = PrefillWindow()
        self._familiar: Familiar[Route] = Familiar()

    @property
    def has_room(self) -> bool:
        """Whether another prompt may go on its way."""
        return self._prefills.has_room

    def see(self, known: Container[PeerId], width: Callable[[Route], int] | None) -> None:
        """The view changed.

        Args:
            known: Peers that serve.
            width: Of a route from now on; None where all are as they were.
        """
        self._prefills.forget(known)
        if width is not None:
            self._windows.widen(width)

    def named(self, name: SessionId) -> Generation | None:
        """The generation that stages call so."""
        return self._by_name.get(name)

    def current(self, name: SessionId, attempt: int) -> Generation | None:
        """The generation that stages call so in this attempt; what is older is nobody's."""
        generation = self._by_name.get(name)
        return generation if generation is not None and generation.attempt == attempt else None

    def familiar(self, generation: Generation) -> Route:
        """Where stages may have kept a prompt's beginning; empty where nobody did."""
        if not self._familiar:
            return ()
        self._hash(generation)
        return self._familiar.find(generation.chain) or ()

    def open(self, generation: Generation, route: Route, width: int, epoch: int) -> list[Send]:
        """Reserve every stage of a route.

        Args:
            generation: On no pipeline.
            route: Its way from now on.
            width: Most decode frames in flight on it.
            epoch: The plan that it comes from.
        """
        generation.attempt += 1
        generation.name = SessionId(self._random.randbytes(SESSION_ID_BYTES))
        generation.take(route)
        generation.opened = set()
        generation.announce = True
        generation.reused = len(generation.tokens)
        self._by_name[generation.name] = generation
        self._windows.join(generation.name, route, width)
        self._prefills.start(generation.name, len(generation.tokens), generation.peers)
        self._hash(generation)
        return frames.openings(generation, self._me, epoch)

    def opened(self, generation: Generation, peer: PeerId, reused: int) -> bool:
        """A stage has reserved its room.

        Args:
            generation: Whose.
            peer: The stage.
            reused: Positions that it says it has.

        Returns:
            Whether all stages have; the pipeline uses what each of them has.
        """
        generation.opened.add(peer)
        # The last token must be fed, for the next one to come out.
        most = (len(generation.tokens) - 1) // PREFIX_BLOCK_TOKENS * PREFIX_BLOCK_TOKENS
        generation.reused = min(generation.reused, max(0, min(reused, most)))
        return len(generation.opened) == len(generation.route)

    def feed(self, generation: Generation, now_s: float) -> list[Send]:
        """Prefill everything that is known; the last chunk's last position gives the next token."""
        generation.fed = len(generation.tokens)
        self._prefills.feed(generation.name, len(generation.tokens) - generation.reused, now_s)
        return frames.prefill(generation, self._me, self._limits.prefill_chunk_tokens)

    def returned(self, generation: Generation, now_s: float) -> None:
        """A token came back."""
        self._windows.returned(generation.name, now_s)
        self._prefills.answer(generation.name, now_s)

    def ready(self, generation: Generation) -> None:
        """Its next token can be computed."""
        self._windows.ready(generation.name)

    def decode(self, now_s: float) -> list[Send]:
        """The decode frames that the windows allow now."""
        return [
            frames.decode([self._by_name[name] for name in names], self._me)
            for names in self._windows.take(self._limits.decode_batch, now_s)
        ]

    def end(self, generation: Generation, lost: PeerId | None, *, keep: bool) -> list[Send]:
        """Free what a generation holds on its stages, if it is on a pipeline.

        Args:
            generation: Which.
            lost: A stage that is gone, and is not told.
            keep: Whether its caches may serve others that begin alike.
        """
        self._windows.leave(generation.name)
        self._prefills.end(generation.name)
        self._by_name.pop(generation.name, None)
        if keep:
            self._hash(generation)
            self._familiar.remember(generation.chain, generation.route)
        closings = [s for s in frames.closings(generation, keep=keep) if s.to != lost]
        generation.take(())
        return closings

    def _hash(self, generation: Generation) -> None:
        if self._limits.reuse_prefixes:
            generation.chain = chain_of(
                self._secret, generation.identity, generation.tokens, generation.chain
            )
