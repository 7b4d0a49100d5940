"""How much prefill an entry peer has on its way at once: as much as the pipelines carry, no more.

A prompt is hundreds of activations per hop, a token one; so it is prefill that fills links and
inboxes. Fed all at once, 290 prompts put 5 GB on one 100 Mbit/s link of the paper's geo24, the
stages behind it heard nothing for a minute and gave their sessions back, and every one of them was
fed again from its first position: 99 tokens/s, 102 s to a first token. No stage can prevent that,
since each sees only its own queue; the entry peer sees how long its prompts take.

The rule is TCP Vegas' (Brakmo and Peterson, 1995): a window in tokens that grows while prompts take
about as long as they do on idle pipelines, and shrinks when they take much longer. What is idle is
learnt per peer: the least time per token that any prompt took through it of late. A route is as
fast as its slowest peer, so one slow route does not make the others look congested. A peer that has
become slower is learnt anew at the smallest window, where prompts go one by one and what they take
is what an idle pipeline takes.

Always: one prompt may always go; the window never counts a prompt twice or for ever; a window that
is not used up does not grow.
"""

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass

from helix_p2p.types import PeerId, SessionId

FIRST_TOKENS = 2_048
"""Two or three prompts; doubling finds the rest in seconds, and no thin link is flooded first."""
LEAST_TOKENS = 1_024
MOST_TOKENS = 1_048_576
FIXED_TOKENS = 512
"""A pass over every hop costs about as much as computing so many tokens, however short it is."""
SLOW = 3.0
"""Congested: so many times longer than on idle pipelines. Decode takes every second turn of a busy
stage, which alone doubles a prompt's time and is no reason to slow down."""
SHRINK = 0.8


@dataclass(slots=True)
class _Prompt:
    tokens: int
    peers: tuple[PeerId, ...]
    fed_s: float | None = None


class PrefillWindow:
    """The prompts of one entry peer that are on their way."""

    def __init__(self) -> None:
        self.window_tokens = float(FIRST_TOKENS)
        self.tokens = 0
        self._prompts: dict[SessionId, _Prompt] = {}
        self._least_s: dict[PeerId, float] = {}  # per token
        self._starting = True
        self._shrunk_s = -math.inf

    @property
    def has_room(self) -> bool:
        """Whether another prompt may go."""
        return self.tokens < self.window_tokens

    def start(self, session: SessionId, tokens: int, peers: Iterable[PeerId]) -> None:
        """A pipeline is being opened for a prompt.

        Args:
            session: The pipeline's name.
            tokens: That are to be fed.
            peers: Of the pipeline.
        """
        self._prompts[session] = _Prompt(tokens, tuple(peers))
        self.tokens += tokens

    def feed(self, session: SessionId, tokens: int, now_s: float) -> None:
        """Its prefill is on its way, without what every stage of its pipeline has already."""
        if (prompt := self._prompts.get(session)) is not None:
            self.tokens += tokens - prompt.tokens
            prompt.tokens = tokens
            prompt.fed_s = now_s

    def end(self, session: SessionId) -> None:
        """It came to nothing, or is over; what was answered has ended already."""
        prompt = self._prompts.pop(session, None)
        if prompt is not None:
            self.tokens -= prompt.tokens

    def answer(self, session: SessionId, now_s: float) -> None:
        """A token came: the first one tells how long its prefill took."""
        prompt = self._prompts.get(session)
        if prompt is None or prompt.fed_s is None:
            return
        used_up = not self.has_room
        self.end(session)
        cost = prompt.tokens + FIXED_TOKENS
        s_per_token = (now_s - prompt.fed_s) / cost
        slow = s_per_token > SLOW * self._idle_s_per_token(prompt)
        alone = self.window_tokens <= LEAST_TOKENS
        for peer in prompt.peers:
            before_s = self._least_s.get(peer, math.inf)
            self._least_s[peer] = s_per_token if alone else min(before_s, s_per_token)
        if slow:
            if prompt.fed_s >= self._shrunk_s:  # once for all that were on their way together
                self.window_tokens = max(LEAST_TOKENS, SHRINK * self.window_tokens)
                self._shrunk_s = now_s
                self._starting = False
        elif used_up:
            # Doubling at first, then one more prompt each time that a windowful has been answered.
            part = 1.0 if self._starting else prompt.tokens / self.window_tokens
            self.window_tokens = min(MOST_TOKENS, self.window_tokens + part * prompt.tokens)

    def forget(self, known: Container[PeerId]) -> None:
        """Peers that nobody knows any more have no speed."""
        self._least_s = {p: seconds for p, seconds in self._least_s.items() if p in known}

    def _idle_s_per_token(self, prompt: _Prompt) -> float:
        """Of its slowest peer; infinite where a peer is new."""
        return max(self._least_s.get(peer, math.inf) for peer in prompt.peers)
