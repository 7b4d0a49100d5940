"""Whom to check and what the answers prove, without a peer or a tensor."""

from collections.abc import Sequence
from random import Random

import pytest

from helix_p2p.routing.recheck import (
    TOLERANCE,
    Ask,
    Case,
    RecheckLimits,
    Rechecks,
    StageRun,
    Verdict,
    next_step,
    tokens_agree,
    tolerance,
)
from helix_p2p.types import LayerRange, PeerId

ME, ANN, BEN, CAT, DAN = (PeerId(p) for p in ("me", "ann", "ben", "cat", "dan"))
LAYERS = LayerRange(4, 8)
RUN = StageRun(ME, ANN, BEN, LAYERS)
CASE = Case(RUN, 10, (CAT, DAN))


def verdict(answers: dict[Ask, str | None], *, own_eyes: bool = False) -> tuple[Verdict, list[Ask]]:
    """Hold a case in which each answer is a word; None stands for no answer."""
    came: dict[Ask, bool] = {}
    asked: list[Ask] = []
    while True:
        step = next_step(came, lambda a, b: answers[a] == answers[b], own_eyes=own_eyes)
        if isinstance(step, Verdict):
            return step, asked
        asked.append(step)
        came[step] = answers.get(step) is not None


SENT = {Ask.SENT: "in", Ask.TOOK: "in"}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({Ask.GOT: "x", Ask.AGAIN: "x"}, Verdict.SOUND),
        ({Ask.GOT: "bad", Ask.SAID: "bad", Ask.AGAIN: "x", Ask.AGAIN_TOO: "x"}, Verdict.WRONG),
        (
            {Ask.GOT: "x", Ask.SAID: "x", Ask.AGAIN: "bad", Ask.AGAIN_TOO: "x"},
            Verdict.AUDITOR_WRONG,
        ),
        ({Ask.GOT: "bad", Ask.SAID: "x", Ask.AGAIN: "x"}, Verdict.DISPUTED_AFTER),
        ({Ask.GOT: "bad", Ask.SAID: None, Ask.AGAIN: "x"}, Verdict.DISPUTED_AFTER),
        ({Ask.GOT: "x", Ask.AGAIN: "y", Ask.TOOK: "other"}, Verdict.DISPUTED_BEFORE),
        (
            {Ask.GOT: "x", Ask.SAID: "x", Ask.AGAIN: "y", Ask.AGAIN_TOO: "z"},
            Verdict.UNDECIDED,
        ),
        (
            {Ask.GOT: "bad", Ask.SAID: "bad", Ask.AGAIN: "x", Ask.AGAIN_TOO: None},
            Verdict.UNDECIDED,
        ),
        ({Ask.GOT: "x", Ask.AGAIN: None}, Verdict.UNDECIDED),
        ({Ask.GOT: None}, Verdict.UNDECIDED),
    ],
)
def test_verdict_follows_from_the_answers(
    answers: dict[Ask, str | None], expected: Verdict
) -> None:
    assert verdict({**SENT, **answers})[0] is expected


def test_sound_stage_costs_one_run_and_two_questions() -> None:
    _, asked = verdict({**SENT, Ask.GOT: "x", Ask.AGAIN: "x"})
    assert asked == [Ask.SENT, Ask.GOT, Ask.AGAIN]


def test_no_single_word_convicts_but_ones_own() -> None:
    alone = {**SENT, Ask.GOT: "bad", Ask.SAID: "bad", Ask.AGAIN: "x"}
    assert verdict(alone)[0] is Verdict.UNDECIDED
    assert verdict(alone, own_eyes=True)[0] is Verdict.WRONG


def test_tolerance_is_that_of_the_coarser_weights_and_unknown_ones_get_the_widest() -> None:
    assert tolerance(["f32", "f32"]) == TOLERANCE["f32"]
    assert tolerance(["f32", "bf16 int8"]) == TOLERANCE["int8"]
    assert tolerance(["f32", ""]) == tolerance(["f32", "made up"]) == TOLERANCE["nf4"]
    assert tokens_agree(["f32", "bf16 nf4"]) < tokens_agree(["f32"])


def rechecks(**limits: float) -> Rechecks:
    return Rechecks(ME, Random(4), RecheckLimits(**limits))  # type: ignore[arg-type]


def holders(_layers: LayerRange) -> Sequence[PeerId]:
    return (ANN, BEN, CAT, DAN)


def test_budget_holds_even_while_every_session_is_worth_a_check() -> None:
    checks = rechecks(burst_token_layers=1000.0)
    for number in range(2_000):
        case = checks.choose([RUN], 200, holders, float(number))
        assert checks.chance(RUN.stage) == 1.0
        if case is not None:
            checks.spend(case)
            checks.close(case, Verdict.UNDECIDED, CAT, float(number))
    most = 0.01 * checks.served_token_layers + 1000
    assert 0.9 * most < checks.rerun_token_layers <= most


def test_peer_with_a_long_record_is_checked_rarely_and_one_that_was_wrong_often_again() -> None:
    checks = rechecks()
    assert checks.chance(ANN) == 1.0
    for _ in range(200):
        checks.close(CASE, Verdict.SOUND, CAT, 0.0)
    assert checks.chance(ANN) == RecheckLimits().least_chance
    checks.close(CASE, Verdict.WRONG, CAT, 0.0)
    assert checks.chance(ANN) == 1.0


def test_first_wrong_check_suspends_and_the_second_bans() -> None:
    checks, limits = rechecks(), RecheckLimits()
    checks.close(CASE, Verdict.WRONG, CAT, 0.0)
    assert checks.all_shunned(limits.suspend_s - 1) == {ANN}
    assert not checks.shunned(ANN, limits.suspend_s)
    checks.close(CASE, Verdict.WRONG, DAN, 1000.0)
    assert checks.shunned(ANN, 1000.0 + limits.ban_s - 1)


@pytest.mark.parametrize(
    "harmless", [Verdict.UNDECIDED, Verdict.DISPUTED_AFTER, Verdict.DISPUTED_BEFORE, Verdict.SOUND]
)
def test_no_other_verdict_shuns_anyone(harmless: Verdict) -> None:
    checks = rechecks()
    checks.close(CASE, harmless, CAT, 0.0)
    assert not checks.all_shunned(0.1)


def test_own_engine_audits_first_and_neighbours_last() -> None:
    checks = rechecks()
    case = checks.choose([RUN], 50, lambda _: (BEN, ME, CAT, ANN, DAN), 0.0)
    assert case is not None
    assert case.auditors[0] == ME
    assert case.auditors[-1] == BEN
    assert set(case.auditors) == {ME, BEN, CAT, DAN}


def test_stage_that_nobody_else_holds_is_not_checked() -> None:
    assert rechecks().choose([RUN], 50, lambda _: (ANN,), 0.0) is None


def test_who_was_found_wrong_audits_nobody() -> None:
    checks = rechecks()
    checks.close(Case(StageRun(ME, CAT, None, LAYERS), 4, (DAN,)), Verdict.WRONG, DAN, 0.0)
    case = checks.choose([RUN], 50, holders, 1.0)
    assert case is not None
    assert CAT not in case.auditors
