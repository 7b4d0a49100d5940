"""Which mentioned words are asked for."""

from helix_p2p.membership.questions import (
    WORDS_KEPT,
    WORDS_PER_MEMBER,
    WORDS_PER_QUESTION,
    Questions,
)
from helix_p2p.membership.roster import Roster
from helix_p2p.membership.timing import MembershipTiming

T = MembershipTiming()
NOBODY = Roster("", T)
OURS = b"our word"


def word(number: int) -> bytes:
    return number.to_bytes(8)


def test_word_is_asked_for_once_and_again_when_it_never_came() -> None:
    questions = Questions(T)
    assert questions.worth([word(1), OURS], NOBODY, OURS, 0.0) == (word(1),)
    assert questions.worth([word(1)], NOBODY, OURS, T.pull_s / 2) == ()
    assert questions.worth([word(1)], NOBODY, OURS, T.pull_s) == (word(1),)
    questions.answered(word(1))
    assert questions.worth([word(1)], NOBODY, OURS, 9 * T.pull_s) == ()


def test_one_question_names_only_so_many() -> None:
    mentioned = [word(number) for number in range(2 * WORDS_PER_QUESTION)]
    first = Questions(T).worth(mentioned, NOBODY, OURS, 0.0)
    assert first == tuple(mentioned[:WORDS_PER_QUESTION])


def test_of_too_many_words_the_older_half_is_forgotten() -> None:
    questions = Questions(T)
    for number in range(WORDS_KEPT + 1):
        questions.answered(word(number))
    old, young = word(WORDS_KEPT // 2 - 1), word(WORDS_KEPT // 2)
    assert questions.worth([old, young], NOBODY, OURS, 0.0) == (old,)


def test_liars_cannot_make_us_remember_what_we_asked_for_without_end() -> None:
    questions = Questions(T)
    for start in range(0, WORDS_KEPT + WORDS_PER_QUESTION, WORDS_PER_QUESTION):
        made_up = [word(start + one) for one in range(WORDS_PER_QUESTION)]
        questions.worth(made_up, NOBODY, OURS, 0.0)
    last = word(WORDS_KEPT)
    assert questions.worth([word(0), last], NOBODY, OURS, 0.0) == (word(0),)


class Crowded(Roster):
    """One of so many members that two words of each are more than are usually kept."""

    def __len__(self) -> int:
        return WORDS_KEPT


def test_a_peer_of_thousands_remembers_some_words_of_each() -> None:
    questions = Questions(T)
    many = Crowded("", T)
    questions.worth([], many, OURS, 0.0)
    for number in range(WORDS_PER_MEMBER * WORDS_KEPT):
        questions.answered(word(number))
    assert questions.worth([word(0)], many, OURS, 0.0) == ()
    questions.answered(b"one more")
    assert questions.worth([word(0)], many, OURS, 0.0) == (word(0),)
