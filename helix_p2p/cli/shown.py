r"""Text of other machines on this person's terminal: names, reasons, answers.

Always: what is printed moves no cursor, sets no title, types no key: a terminal obeys control
characters, and anybody may call a peer `\x1b]0;…`. Characters that only format (Unicode's
bidirectional controls, annotations, tags) go the same way, since they make a line say what it does
not; the two that join letters stay, which some scripts and emoji need.
"""

import unicodedata

_KEPT = "\n\t\u200c\u200d"


def harmless(text: str) -> str:
    """The text with control characters left out; line ends and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(filter(_is_harmless, text))


def _is_harmless(character: str) -> bool:
    if character in _KEPT:
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs")
