"""What is remembered of conversations: the longest beginning counts, and memory is bounded."""

from helix_p2p.session.familiar import Familiar
from helix_p2p.session.prefixes import chain_of
from helix_p2p.types import PeerId

ANN = PeerId("ann")


def chain(*tokens: int) -> tuple[bytes, ...]:
    """Of a text of whole blocks, one number each."""
    return chain_of(b"s", ANN, [token for token in tokens for _ in range(64)])


def test_the_longest_beginning_counts():
    known: Familiar[str] = Familiar()
    known.remember(chain(1, 2), "here")
    known.remember(chain(1, 3, 4), "there")
    assert known.find(chain(1, 2, 9)) == "here"
    assert known.find(chain(1, 3, 4, 5)) == "there"
    assert known.find(chain(1, 8)) == "there", "who served the shared beginning last"
    assert known.find(chain(2, 1)) is None
    assert known.find(()) is None


def test_who_is_longest_unused_is_forgotten_first():
    known: Familiar[str] = Familiar(most=4)
    known.remember(chain(1, 2), "first")
    known.remember(chain(3, 4), "second")
    known.remember(chain(1, 2), "first")
    known.remember(chain(5), "third")
    assert len(known) == 4
    assert known.find(chain(1, 2)) == "first"
    assert known.find(chain(3)) is None
    known.remember(chain(*range(10, 20)), "long")
    assert known.find(chain(*range(10, 20))) == "long"
    assert len(known) == 4
