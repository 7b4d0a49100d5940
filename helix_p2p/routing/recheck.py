"""Who computes wrongly: whom to check, what to ask next, and what the answers prove.

An entry peer lets others run the beginning of a finished session's stage again, on the input that
the stage was really given, and compares with the output that the next stage really got. How often
follows BOINC's adaptive replication (Anderson, "BOINC: a platform for volunteer computing", 2020,
§4.2): a peer that is new, or was wrong lately, nearly always; one with a long good record rarely.

    before ──sent──▶ stage ──got──▶ after          again, again': two other holders of these layers
             took ◀──┘  └──▶ said                  (the entry peer itself first, where it is one)

    again = got                                     sound
    again ≠ got: took ≠ sent, or said ≠ got         one of two neighbours lies: a way in dispute
                 again' = got                       the first auditor was wrong, not the stage
                 again' = again                     the stage is wrong: two agree against it
                 all three differ                   nothing is proven

Always: nobody is found wrong on one peer's word, nor on a difference that honest numerics can make;
what is asked stays within a share of what is served; a verdict binds only the peer that reached it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from helix_p2p.types import LayerRange, PeerId

TOLERANCE = {"f32": 1e-3, "f16": 0.02, "bf16": 0.08, "int8": 0.12, "nf4": 0.4}
"""Largest honest relative difference of a stage's output by what its weights are held in, with a
factor of at least three: f32 2e-6 to 1e-4, bf16 1–2 %, int8 3 %, nf4 12 %."""
TOKENS_AGREE = {"f32": 0.75, "f16": 0.66, "bf16": 0.66, "int8": 0.5, "nf4": 0.25}
"""Least share of a last stage's tokens that honest numerics leave the same: bf16 flips 1 of 64 arg
maxima, other weights more; of four tokens and more, so that one flip decides nothing."""
LEAST_TOKENS = 4


class Verdict(Enum):
    """What a case ended with."""

    SOUND = "sound"
    WRONG = "wrong"
    AUDITOR_WRONG = "auditor_wrong"
    DISPUTED_BEFORE = "disputed_before"
    DISPUTED_AFTER = "disputed_after"
    UNDECIDED = "undecided"


class Ask(Enum):
    """What is needed next."""

    SENT = "sent"
    GOT = "got"
    AGAIN = "again"
    TOOK = "took"
    SAID = "said"
    AGAIN_TOO = "again_too"


Answers = Mapping[Ask, bool]
"""What was asked, and whether an answer came that can be used."""

Close = Callable[[Ask, Ask], bool]
"""Whether two answers are the same but for honest numerics."""


def tolerance(held_in: Sequence[str]) -> float:
    """The tolerance for outputs of peers that hold their weights so; unknown words count as nf4.

    Args:
        held_in: As each says, e.g. `bf16` or `bf16 int8`.
    """
    return max(TOLERANCE[word] for word in _words(held_in))


def tokens_agree(held_in: Sequence[str]) -> float:
    """The least share of equal tokens; see `tolerance`."""
    return min(TOKENS_AGREE[word] for word in _words(held_in))


def _words(held_in: Sequence[str]) -> list[str]:
    words = [word for said in held_in for word in said.split() or [""]]
    return [word if word in TOLERANCE else "nf4" for word in words] or ["nf4"]


def next_step(answers: Answers, close: Close, *, own_eyes: bool = False) -> Ask | Verdict:
    """What to ask next in a case, or its verdict.

    Args:
        answers: So far.
        close: Compares two of them that came.
        own_eyes: Whether `AGAIN` was run by whoever judges, which then needs nobody to agree.
    """
    for first in (Ask.SENT, Ask.GOT, Ask.AGAIN):
        if first not in answers:
            return first
        if not answers[first]:
            return Verdict.UNDECIDED
    if close(Ask.AGAIN, Ask.GOT):
        return Verdict.SOUND
    for own, other, dispute in (
        (Ask.TOOK, Ask.SENT, Verdict.DISPUTED_BEFORE),
        (Ask.SAID, Ask.GOT, Verdict.DISPUTED_AFTER),
    ):
        if own not in answers:
            return own
        if not answers[own] or not close(own, other):
            return dispute
    if Ask.AGAIN_TOO not in answers:
        return Ask.AGAIN_TOO
    if not answers[Ask.AGAIN_TOO]:
        return Verdict.WRONG if own_eyes else Verdict.UNDECIDED
    if close(Ask.AGAIN_TOO, Ask.GOT):
        return Verdict.AUDITOR_WRONG
    return Verdict.WRONG if close(Ask.AGAIN_TOO, Ask.AGAIN) else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True)
class RecheckLimits:
    """How much is checked, and what follows.

    Attributes:
        share: Of the token-layers served by others, at most so much is run again.
        positions: Longest beginning of a session that is run again.
        more_positions: Most of them beyond what a check needs at least.
        burst_token_layers: Credit that is there at the start, and most that is saved up.
        trusted_after: A peer with so many sound checks in a row is no longer always worth one.
        least_chance: The most trusted peer's chance, against 1 of a new one.
        suspend_s: Routes avoid a peer for so long after its first wrong check.
        ban_s: After the second.
    """

    share: float = 0.01
    positions: int = 256
    more_positions: int = 32
    burst_token_layers: float = 4096.0
    trusted_after: int = 10
    least_chance: float = 0.05
    suspend_s: float = 600.0
    ban_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage of a finished session.

    Attributes:
        before: Who sent its input.
        stage: Who ran it.
        after: Who got its output; None for the last stage, whose tokens the entry peer has.
        layers: Which it ran.
        least: Positions below which there is nothing to compare: the prompt's, for a last stage.
    """

    before: PeerId
    stage: PeerId
    after: PeerId | None
    layers: LayerRange
    least: int = 1


@dataclass(frozen=True, slots=True)
class Case:
    """One stage to be checked.

    Attributes:
        run: Which.
        positions: How many, from the first.
        auditors: Others that hold the layers, in the order in which to ask them.
    """

    run: StageRun
    positions: int
    auditors: tuple[PeerId, ...]


@dataclass(slots=True)
class Record:
    """What one entry peer knows of another's computing."""

    sound: int = 0
    sound_in_a_row: int = 0
    wrong: int = 0
    shunned_until_s: float = 0.0


@dataclass(slots=True)
class Rechecks:
    """Chooses cases within the budget, and keeps every peer's record.

    Args:
        me: This entry peer; its own stages are not checked here, and it audits first if it can.
        rng: Chance, which nobody may foresee.
        limits: How much.
    """

    me: PeerId
    rng: Random
    limits: RecheckLimits = field(default_factory=RecheckLimits)
    records: dict[PeerId, Record] = field(default_factory=dict)
    credit: float = 0.0
    served_token_layers: int = 0
    rerun_token_layers: int = 0

    def __post_init__(self) -> None:
        self.credit = self.limits.burst_token_layers

    def chance(self, peer: PeerId) -> float:
        """How much a check of this peer is worth, 1 for one that is new or was wrong lately."""
        in_a_row = self.records.get(peer, Record()).sound_in_a_row
        after = self.limits.trusted_after
        return 1.0 if in_a_row < after else max(self.limits.least_chance, after / (in_a_row + 1))

    def choose(
        self,
        runs: Sequence[StageRun],
        positions: int,
        holders: Callable[[LayerRange], Sequence[PeerId]],
        now_s: float,
    ) -> Case | None:
        """A session is done: the stage to be checked, if any.

        Args:
            runs: Its stages but the first.
            positions: Of the session.
            holders: Who holds a range of layers now.
            now_s: Now.
        """
        served = positions * sum(len(run.layers) for run in runs)
        self.served_token_layers += served
        limits = self.limits
        self.credit = min(limits.burst_token_layers, self.credit + limits.share * served)
        runs = [run for run in runs if run.stage != self.me and run.least <= positions]
        worth = [(run, self.chance(run.stage)) for run in runs]
        worth = [(run, chance) for run, chance in worth if self.rng.random() < chance]
        if not worth:
            return None
        (run,) = self.rng.choices([run for run, _ in worth], [chance for _, chance in worth])
        count = min(positions, run.least + self.rng.randrange(limits.more_positions))
        if not run.least <= count <= limits.positions or count * len(run.layers) > self.credit:
            return None
        able = [p for p in holders(run.layers) if p != run.stage and not self.shunned(p, now_s)]
        others = [peer for peer in able if peer != self.me and peer not in (run.before, run.after)]
        self.rng.shuffle(others)
        # Neighbours have said their part already, and might cover for each other.
        last = [p for p in able if p != self.me and p not in others]
        auditors = (*([self.me] if self.me in able else []), *others, *last)
        return Case(run, count, auditors) if auditors else None

    def spend(self, case: Case) -> None:
        """One more run of a case's layers was asked for."""
        cost = case.positions * len(case.run.layers)
        self.credit -= cost
        self.rerun_token_layers += cost

    def close(self, case: Case, verdict: Verdict, auditor: PeerId | None, now_s: float) -> None:
        """A case has ended.

        Args:
            case: Which.
            verdict: With what.
            auditor: Who ran the stage again first.
            now_s: Now.
        """
        match verdict:
            case Verdict.SOUND:
                record = self._record(case.run.stage)
                record.sound += 1
                record.sound_in_a_row += 1
            case Verdict.WRONG:
                self._wrong(case.run.stage, now_s)
            case Verdict.AUDITOR_WRONG if auditor is not None and auditor != self.me:
                self._wrong(auditor, now_s)
            case _:
                pass

    def shunned(self, peer: PeerId, now_s: float) -> bool:
        """Whether routes are to avoid a peer that computed wrongly."""
        record = self.records.get(peer)
        return record is not None and now_s < record.shunned_until_s

    def all_shunned(self, now_s: float) -> frozenset[PeerId]:
        """Everyone whom routes are to avoid."""
        return frozenset(peer for peer in self.records if self.shunned(peer, now_s))

    def _record(self, peer: PeerId) -> Record:
        return self.records.setdefault(peer, Record())

    def _wrong(self, peer: PeerId, now_s: float) -> None:
        record = self._record(peer)
        record.wrong += 1
        record.sound_in_a_row = 0
        limits = self.limits
        record.shunned_until_s = now_s + (limits.suspend_s if record.wrong == 1 else limits.ban_s)
