"""Whole lives of swarms under attack keep the invariants; and the checks of them can fail."""

from collections.abc import Callable

import pytest

from helix_p2p.membership import adoption
from helix_p2p.membership.adoption import Adoption
from helix_p2p.membership.messages import PushProof
from helix_p2p.membership.trust import Trust
from helix_p2p.membership.view import MembershipView
from helix_p2p.types import PeerId
from tests.simulation.cabal import unleash
from tests.simulation.storm import Broken, Storm, Weather, live

SMALL = 16
Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("seed", [pytest.param(n, id=f"seed-{n}") for n in range(3)])
def test_swarm_under_attack_keeps_every_invariant(seed: int) -> None:
    lab = live(seed, Weather.of(seed, SMALL), unleash)
    assert lab.seen.adoptions > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [pytest.param(n, id=f"seed-{n}") for n in range(1000, 1040)])
def test_larger_swarm_under_attack_keeps_every_invariant(seed: int) -> None:
    live(seed, Weather.of(seed), unleash)


def adopt_what_is_lower(patch: Patch) -> None:
    patch.setattr(Adoption, "_is_higher", lambda *_: True)


def validate_nothing(patch: Patch) -> None:
    patch.setattr(Storm, "_judge", lambda *_: None)


def take_any_epoch(patch: Patch) -> None:
    patch.setattr(Storm, "_judge", lambda *_: None)
    patch.setattr(adoption, "highest_epoch_at", lambda _: 2**62)


def believe_any_proof(patch: Patch) -> None:
    def convict(trust: Trust, proof: PushProof, _known: object) -> PeerId | None:
        news = proof.first.signer not in trust.proofs
        trust.proofs[proof.first.signer] = proof
        return proof.first.signer if news else None

    patch.setattr(Trust, "convict", convict)


def pull_nothing(patch: Patch) -> None:
    patch.setattr(Adoption, "wants", lambda *_: False)


def route_over_nobody(patch: Patch) -> None:
    patch.setattr(MembershipView, "serving", lambda _: {})


def slowly(sabotage: Callable[[Patch], None], broken: str) -> object:
    return pytest.param(sabotage, broken, id=sabotage.__name__, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("sabotage", "broken"),
    [
        pytest.param(adopt_what_is_lower, "I1", id="adopt_what_is_lower"),
        pytest.param(validate_nothing, "I[24]", id="validate_nothing"),
        slowly(take_any_epoch, "I[247]"),
        slowly(believe_any_proof, "I6"),
        slowly(pull_nothing, "I3"),
        slowly(route_over_nobody, "I5"),
    ],
)
def test_missing_rule_is_found_out(
    sabotage: Callable[[Patch], None], broken: str, monkeypatch: Patch
) -> None:
    sabotage(monkeypatch)

    def four_lives() -> None:
        for seed in range(4):
            live(seed, Weather(14, 3, 0.05), unleash)

    with pytest.raises(Broken, match=broken):
        four_lives()
