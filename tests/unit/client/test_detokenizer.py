import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from helix_p2p.client.detokenizer import IncrementalText, StopStrings
from tests.unit.client.small_models import byte_level, metaspace

BYTE_LEVEL = byte_level()
METASPACE = metaspace()


def decode(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True)


def pieces(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    text = IncrementalText(lambda ids: decode(tokenizer, list(ids)))
    return [*(text.push(token) for token in tokens), text.finish()]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_pieces_of_any_text_are_the_text(text: str):
    tokens = BYTE_LEVEL.encode(text, add_special_tokens=False).ids
    assert "".join(pieces(BYTE_LEVEL, tokens)) == decode(BYTE_LEVEL, tokens)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() - 1), max_size=60))
def test_pieces_of_random_tokens_are_their_decoding(tokens: list[int]):
    whole = decode(BYTE_LEVEL, tokens)
    made = pieces(BYTE_LEVEL, tokens)
    if "\ufffd" * 8 not in whole:
        assert "".join(made) == whole


def test_character_split_over_tokens_comes_whole():
    tokens = BYTE_LEVEL.encode("a🦊é", add_special_tokens=False).ids
    made = [piece for piece in pieces(BYTE_LEVEL, tokens) if piece]
    assert "".join(made) == "a🦊é"
    assert "🦊" in made
    assert not any("\ufffd" in piece for piece in made)


def test_answer_that_ends_in_half_a_character_is_not_lost():
    tokens = BYTE_LEVEL.encode("ab🦊", add_special_tokens=False).ids[:-1]
    made = pieces(BYTE_LEVEL, tokens)
    assert "".join(made) == decode(BYTE_LEVEL, tokens)
    assert made[-1] == "\ufffd"


def test_bytes_that_are_no_text_do_not_hold_the_answer_up():
    [lone] = [i for t, i in BYTE_LEVEL.get_vocab().items() if t == "\u0122"]  # byte 0x80
    made = pieces(BYTE_LEVEL, [lone] * 100)
    assert any(made[:-1])
    assert set("".join(made)) == {"\ufffd"}


def test_spaces_between_words_survive_word_pieces():
    ids = METASPACE.get_vocab()
    tokens = [ids["<s>"], ids["▁hello"], ids["▁world"], ids[","], ids["▁a"], ids["</s>"]]
    assert pieces(METASPACE, tokens) == ["", "hello", " world", ",", " a", "", ""]


def test_byte_fallback_characters_come_whole():
    ids = METASPACE.get_vocab()
    tokens = [ids["▁hello"], *(ids[f"<0x{byte:02X}>"] for byte in "é🦊".encode()), ids["lo"]]
    assert "".join(pieces(METASPACE, tokens)) == "helloé🦊lo"


def test_endless_special_tokens_cost_no_memory():
    text = IncrementalText(lambda ids: decode(BYTE_LEVEL, list(ids)))
    for _ in range(500):
        assert text.push(0) == ""
    assert len(text._new) < 100


def cut(stops: list[str], given_pieces: list[str]) -> tuple[list[str], str | None]:
    stopper = StopStrings(stops)
    made = [stopper.push(piece) for piece in given_pieces]
    return [*made, stopper.finish()], stopper.found


@pytest.mark.parametrize(
    ("stops", "given_pieces", "text", "found"),
    [
        (["END"], ["some", " EN", "D more"], "some ", "END"),
        (["END"], ["some", " EN", "ough"], "some ENough", None),
        (["END"], ["EN"], "EN", None),
        (["\n\n"], ["a\n", "b\n", "\nc"], "a\nb", "\n\n"),
        (["bc", "abcd"], ["xab", "cd"], "xa", "bc"),
        (["b", "abc"], ["abc"], "a", "b"),
        (["c", "bc"], ["a", "b", "c"], "a", "bc"),
        ([], ["a", "b"], "ab", None),
        (["aab"], ["aaaa", "ab"], "aaa", "aab"),
    ],
)
def test_text_ends_at_the_first_stop_string(
    stops: list[str], given_pieces: list[str], text: str, found: str | None
):
    made, hit = cut(stops, given_pieces)
    assert "".join(made) == text
    assert hit == found


def test_text_that_begins_no_stop_string_is_not_held_back():
    made, _ = cut(["END"], ["abc", "dE", "N", "x"])
    assert made == ["abc", "d", "", "ENx", ""]


@settings(max_examples=300, deadline=None)
@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3),
    given_pieces=st.lists(st.text("abc", max_size=4), max_size=12),
)
def test_no_stop_string_is_ever_given_out(stops: list[str], given_pieces: list[str]):
    made, found = cut(stops, given_pieces)
    whole, given_out = "".join(given_pieces), "".join(made)
    assert whole.startswith(given_out)
    if found is None:
        assert given_out == whole
        assert not any(stop in whole for stop in stops)
    else:
        assert whole.startswith(given_out + found)
        assert not any(stop in given_out for stop in stops)
