"""Tokens to text, piece by piece, as a reader wants it: whole characters, nothing to take back.

A token may be part of a character, and a tokenizer may treat a word's first space by what stands
before it. So each piece is the difference of two decodings that begin at the same place, and it is
held back while it ends in half a character (U+FFFD). The method is the one of text-generation-
inference and vLLM; the `tokenizers` library's `DecodeStream` does the same but fails with "Invalid
prefix encountered" on byte sequences that random sampling does produce.

Always: what was given out never changes; the pieces together are the text; stop strings never
appear in them, and a piece that may be the beginning of one is held back until that is clear.
"""

from collections.abc import Callable, Sequence

HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
HELD_LIMIT_TOKENS = 32
"""A character has at most four bytes; whatever is unreadable for longer will not become a text."""

Decode = Callable[[Sequence[int]], str]


class IncrementalText:
    """Decodes one answer.

    Args:
        decode: The tokenizer's decoding of a sequence of ids.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._given = ""  # what the context decodes to
        self._new: list[int] = []

    def push(self, token: int) -> str:
        """The text that is certain with one more token; often empty, never half a character."""
        self._new.append(token)
        text = self._decode(self._context + self._new)
        patient = len(self._new) < HELD_LIMIT_TOKENS
        if len(text) <= len(self._given):
            if not patient:  # special tokens only, they have no text
                self._new.clear()
            return ""
        if text.endswith(HALF_CHARACTER) and patient:
            return ""
        piece = text[len(self._given) :]
        # The tokens of this piece are the context of the next one.
        self._context, self._new = self._new, []
        self._given = self._decode(self._context)
        return piece

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        piece = self._decode(self._context + self._new)[len(self._given) :]
        self._context, self._given, self._new = [], "", []
        return piece


class StopStrings:
    """Cuts a text at the first stop string.

    Args:
        stops: Not empty strings; none for a text that runs to its end.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """The text that certainly stands before any stop string."""
        if self.found is not None:
            return ""
        self._held += piece
        hits = [
            (self._held.find(stop) + len(stop), -len(stop), stop)
            for stop in self._stops
            if stop in self._held
        ]
        if hits:
            # The one that is complete first, however the text is cut into pieces.
            end, _, self.found = min(hits)
            text, self._held = self._held[: end - len(self.found)], ""
            return text
        keep = self._beginning()
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def finish(self) -> str:
        """What was held back and is no stop string after all."""
        text, self._held = self._held, ""
        return text

    def _beginning(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
