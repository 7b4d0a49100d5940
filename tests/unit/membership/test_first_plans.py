"""What is kept to convict with: bounded, and nobody pushes out another's."""

import pytest

from helix_p2p.membership import first_plans
from helix_p2p.membership.first_plans import FirstPlans

from .makers import EPOCH, peer, plan


def keep(kept: FirstPlans, planner: int, epoch: int = EPOCH, *, size: int = 0, salt: float = 0.0):
    return kept.other(plan(planner, epoch, solver="x" * size, salt=salt).record, epoch)


def test_another_plan_of_an_epoch_is_told_from_the_same_one() -> None:
    kept = FirstPlans(lambda _: True)
    assert keep(kept, 1) is None
    assert keep(kept, 1) is None
    assert keep(kept, 1, EPOCH + 1) is None
    assert keep(kept, 2, salt=1.0) is None
    assert keep(kept, 1, salt=1.0) == plan(1, solver="").record


def test_one_key_pushes_out_only_its_own() -> None:
    kept = FirstPlans(lambda _: True)
    keep(kept, 1)
    for number in range(40):
        keep(kept, 2, EPOCH + number)
    assert len(kept) == 1 + first_plans.MOST_OF_ONE
    assert keep(kept, 1, salt=1.0) is not None
    assert keep(kept, 2, EPOCH + 39, salt=1.0) is not None
    assert keep(kept, 2, EPOCH, salt=1.0) is None, "its oldest are forgotten"


def test_long_plans_of_one_key_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_plans, "LIMIT_BYTES_OF_ONE", 50_000)
    kept = FirstPlans(lambda _: True)
    for number in range(5):
        keep(kept, 1, EPOCH + number, size=20_000)
    assert len(kept) == 2
    keep(kept, 1, EPOCH + 5, size=60_000)
    assert len(kept) == 1, "the last one is kept whatever it weighs"


@pytest.mark.parametrize("limit", ["MOST_PLANS", "LIMIT_BYTES"])
def test_keys_that_nobody_met_are_forgotten_first(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_plans, limit, 4 if limit == "MOST_PLANS" else 90_000)
    met = {peer(1), peer(2)}
    kept = FirstPlans(met.__contains__)
    keep(kept, 1, size=20_000)
    for stranger in range(10, 20):
        keep(kept, stranger, size=20_000)
    keep(kept, 2, size=20_000)
    assert len(kept) == 4
    assert keep(kept, 1, size=20_000, salt=1.0) is not None
    assert keep(kept, 10, size=20_000, salt=1.0) is None, "forgotten"


def test_without_strangers_the_key_that_was_quiet_longest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(first_plans, "MOST_PLANS", 2)
    kept = FirstPlans(lambda _: True)
    keep(kept, 1)
    keep(kept, 2)
    keep(kept, 1)
    keep(kept, 3)
    assert keep(kept, 1, salt=1.0) is not None
    assert keep(kept, 2, salt=1.0) is None
