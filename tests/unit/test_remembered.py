"""What was found once is remembered, as much as the process has use for."""

import pytest

from helix_p2p import remembered
from helix_p2p.remembered import remember_for


@pytest.fixture(autouse=True)
def a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_memories", [])
    monkeypatch.setattr(remembered, "_swarms", 1)


def counting() -> tuple[list[int], object]:
    asked: list[int] = []

    @remembered.remembered(2)
    def double(number: int) -> int:
        """Twice as much."""
        asked.append(number)
        if number < 0:
            raise ValueError("below zero")
        return 2 * number

    return asked, double


def test_latest_answers_are_remembered():
    asked, double = counting()
    assert [double(n) for n in (1, 2, 1, 3, 1, 2)] == [2, 4, 2, 6, 2, 4]
    assert asked == [1, 2, 3, 2]
    assert double.__doc__ == "Twice as much."


def test_errors_are_not_remembered():
    asked, double = counting()
    for _ in range(2):
        with pytest.raises(ValueError, match="below zero"):
            double(-1)
    assert asked == [-1, -1]


def test_who_meets_more_swarms_remembers_more_and_never_less():
    asked, double = counting()
    remember_for(3)
    remember_for(2)
    for _ in range(2):
        for number in range(6):
            double(number)
    assert asked == list(range(6))
    double(6)
    double(0)
    assert asked == [*range(7), 0]
