r"""Text of other machines on this person's terminal: names, reasons, answers.

Always: what is printed moves no cursor, sets no title, types no key: a terminal obeys control
characters, and anybody may call a peer `\x1b]0;…`. Characters that reorder a line (Unicode's
bidirectional controls) go the same way, since they make a line say what it does not.
"""

import unicodedata

_KEPT = "\n\t"
_REORDERING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmless(text: str) -> str:
    """The text with control characters left out; line ends and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(filter(_is_harmless, text))


def _is_harmless(character: str) -> bool:
    if character in _KEPT:
        return True
    return unicodedata.category(character) not in ("Cc", "Cs") and character not in _REORDERING
