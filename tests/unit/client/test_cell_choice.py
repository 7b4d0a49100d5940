"""Which cell a client asks, as pure chance and memory."""

from collections import Counter
from random import Random

from helix_p2p.client.cells import CROWDED_S, REDRAW_S, TRIED, CellChoice
from helix_p2p.identity import Identity
from helix_p2p.membership.cell_count import CellCount, write_cells

ROOT = Identity(bytes([1] * 32))


def choice(cells: int, seed: int = 0, serial: int = 1) -> CellChoice:
    made = CellChoice(Random(seed))
    said(made, cells, serial)
    return made


def said(one: CellChoice, cells: int, serial: int, now_s: float = 0.0) -> None:
    word = CellCount(serial, cells)
    one.learn(write_cells(ROOT, word), word, now_s)


def test_swarm_of_which_nothing_is_said_is_one_cell() -> None:
    assert CellChoice(Random(0)).tour(0.0) == [0]


def test_clients_draw_evenly() -> None:
    first = Counter(choice(4, seed).tour(0.0)[0] for seed in range(400))
    assert set(first) == {0, 1, 2, 3}
    assert min(first.values()) >= 70


def test_tour_is_bounded_and_goes_over_different_cells() -> None:
    tour = choice(40).tour(0.0)
    assert len(set(tour)) == len(tour) == TRIED


def test_tours_in_vain_come_to_every_cell() -> None:
    one, seen = choice(10), set()
    for _ in range(3):
        seen.update(one.tour(0.0))
        one.none_serves()
    assert seen == set(range(10))


def test_cell_that_serves_is_asked_first_from_then_on() -> None:
    one = choice(4)
    third = one.tour(0.0)[2]
    one.serves(third)
    assert one.tour(0.0)[0] == third


def test_crowded_cell_is_left_once_and_comes_last_of_all() -> None:
    one = choice(40)
    home = one.tour(0.0)[0]
    one.serves(home)
    one.crowded(1.0)
    one.crowded(1.0 + CROWDED_S / 2)  # another generation's, of the same crowd
    tour = one.tour(2.0)
    assert tour[0] != home
    assert tour[-1] == home
    one.serves(tour[0])
    one.crowded(1.0 + CROWDED_S)
    assert one.tour(10.0)[0] not in (home, tour[0])


def test_new_number_leaves_clients_where_they_are_until_peers_have_moved() -> None:
    moved = 0
    for seed in range(50):
        one = choice(2, seed)
        home = one.tour(0.0)[0]
        one.serves(home)
        said(one, 8, 2, now_s=100.0)
        assert one.tour(100.0)[0] == home
        assert one.tour(99.0 + REDRAW_S)[0] == home
        moved += one.tour(100.0 + REDRAW_S)[0] != home
        assert len(set(one.tour(100.0 + REDRAW_S))) == TRIED
    assert moved > 25


def test_cell_that_is_given_up_is_asked_while_it_serves() -> None:
    one = choice(8)
    home = 5
    one.serves(home)
    said(one, 2, 2, now_s=0.0)
    assert one.tour(1.0)[0] == home
    assert set(one.tour(1.0)) == {home, 0, 1}
    assert home not in one.tour(REDRAW_S)


def test_cell_that_is_gone_is_left_for_good() -> None:
    leaves = [
        lambda one: one.serves(0),
        lambda one: one.crowded(5.0),
        lambda one: (one.serves(0), one.crowded(5.0)),
        lambda one: one.none_serves(),
    ]
    for leave in leaves:
        one = choice(6)
        one.serves(5)
        said(one, 2, 2)
        assert one.tour(1.0)[0] == 5
        leave(one)
        assert set(one.tour(6.0)) == {0, 1}


def test_older_and_equal_words_change_nothing() -> None:
    one = choice(4, serial=5)
    before = one.tour(0.0)
    one.serves(before[0])
    said(one, 9, 4)
    said(one, 4, 6)  # the same number anew
    assert one.tour(REDRAW_S * 2) == before
    assert one.serial == 6
