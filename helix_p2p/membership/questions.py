"""Which mentioned words are worth asking for: those that nobody told us and nobody was asked for.

News travels in a large swarm as words of eight bytes (`announcement.word_of`); whoever does not
know one asks who mentioned it, so that a record goes to each member about once (lazy push: Leitão
et al., Plumtree, SRDS 2007).

Always: bounded; a word that was asked for and never came is asked for again, of somebody else, when
it is mentioned after a while.
"""

from collections.abc import Iterable
from itertools import islice

from helix_p2p.membership.roster import Roster
from helix_p2p.membership.timing import MembershipTiming

WORDS_PER_QUESTION = 32
WORDS_KEPT = 2048
WORDS_PER_MEMBER = 2
"""Beyond this (the larger of both) the older half is forgotten at once: a plain dictionary is a
third of an ordered one. A word that has been replaced is mentioned for some minutes more."""


class Questions:
    """See the module's description.

    Args:
        timing: How long an answer may take.
    """

    def __init__(self, timing: MembershipTiming) -> None:
        self._again_s = timing.pull_s
        self._asked_s: dict[bytes, float] = {}
        self._known: dict[bytes, None] = {}
        self._most = WORDS_KEPT

    def worth(
        self, words: Iterable[bytes], view: Roster, ours: bytes, now_s: float
    ) -> tuple[bytes, ...]:
        """Those of the mentioned words to ask for now; they count as asked."""
        asked: list[bytes] = []
        for word in view.unknown(words):
            if word in self._known or word == ours:
                continue
            if now_s - self._asked_s.get(word, -self._again_s) < self._again_s:
                continue
            self._asked_s[word] = now_s
            asked.append(word)
            if len(asked) == WORDS_PER_QUESTION:
                break
        self._most = max(WORDS_KEPT, WORDS_PER_MEMBER * len(view))
        if len(self._asked_s) > self._most:
            self._asked_s = dict(islice(self._asked_s.items(), self._most // 2, None))
        return tuple(asked)

    def answered(self, word: bytes) -> None:
        """This word came; if it is not in the view it is old, and not worth asking for again."""
        self._asked_s.pop(word, None)
        self._known[word] = None
        if len(self._known) > self._most:
            self._known = dict(islice(self._known.items(), self._most // 2, None))
