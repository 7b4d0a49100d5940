"""How soon a peer that computes wrongly is found, by how often it does, and at what cost.

The machine that decides (`helix_p2p/routing/recheck.py`) runs against peers that are modelled: an
output is a word, the same for all who are honest, but for honest differences that stay below the
tolerance. Three stages behind the entry peer, several holders of each, requests of 200 positions.
Real engines: `tests/integration/serving/test_rechecks.py`.
"""

import argparse
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import click

from helix_p2p.routing.recheck import (
    Ask,
    Case,
    RecheckLimits,
    Rechecks,
    StageRun,
    Verdict,
    next_step,
)
from helix_p2p.types import LayerRange, PeerId

ME = PeerId("entry")
STAGES = (LayerRange(8, 16), LayerRange(16, 24), LayerRange(24, 32))
HOLDERS = 4
POSITIONS = 200
PROMPT = 60
RUNS = 40
MOST_REQUESTS = 200_000


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    found: int
    runs: int
    requests_p50: int | None
    requests_p95: int | None
    bad_answers_p50: int | None
    honest_shunned: int
    rerun_share: float


@dataclass
class World:
    """Peers, and what they do wrong.

    Attributes:
        cheats: Chance that a peer computes a request's stage wrongly.
        lies: Peers that answer every check wrongly as auditors.
    """

    rng: Random
    cheats: dict[PeerId, float]
    lies: frozenset[PeerId]

    def holders(self, layers: LayerRange) -> list[PeerId]:
        """Who holds a stage's layers."""
        at = STAGES.index(layers)
        return [PeerId(f"s{at}p{number}") for number in range(HOLDERS)]

    def hold(self, case: Case, wrong: bool) -> tuple[Verdict, PeerId | None]:
        """Hold a case in which the stage was wrong, or not."""
        words: dict[Ask, str] = {Ask.SENT: "in", Ask.TOOK: "in"}
        words[Ask.GOT] = words[Ask.SAID] = "bad" if wrong else "good"
        came: dict[Ask, bool] = {}
        auditors = list(case.auditors)
        first: PeerId | None = None
        while True:
            step = next_step(came, lambda a, b: words[a] == words[b])
            if isinstance(step, Verdict):
                return step, first
            if step in (Ask.AGAIN, Ask.AGAIN_TOO):
                if not auditors:
                    came[step] = False
                    continue
                auditor = auditors.pop(0)
                first = first or auditor
                bad = auditor in self.lies or self.rng.random() < self.cheats.get(auditor, 0.0)
                words[step] = f"bad by {auditor}" if bad else "good"
            came[step] = True


def trial(seed: int, rate: float, *, liar: bool) -> tuple[int | None, int, int, Rechecks]:
    """Requests until the cheater is shunned, bad answers until then, honest peers ever shunned."""
    rng = Random(seed)
    cheater = PeerId("s1p0")
    lies = frozenset({PeerId("s1p1")}) if liar else frozenset()
    world = World(rng, {cheater: rate} if rate else {}, lies)
    checks = Rechecks(ME, rng, RecheckLimits())
    bad_answers = 0
    most = MOST_REQUESTS if rate else 20_000
    shunned: set[PeerId] = set()
    for request in range(1, most + 1):
        now_s = float(request)
        route = [
            rng.choice([p for p in world.holders(layers) if not checks.shunned(p, now_s)])
            for layers in STAGES
        ]
        wrong = {peer: rng.random() < world.cheats.get(peer, 0.0) for peer in route}
        bad_answers += any(wrong.values())
        way = [ME, *route]
        runs = [
            StageRun(
                way[at],
                peer,
                route[at + 1] if at + 1 < len(route) else None,
                STAGES[at],
                PROMPT if at + 1 == len(route) else 1,
            )
            for at, peer in enumerate(route)
        ]
        case = checks.choose(runs, POSITIONS, world.holders, now_s)
        if case is None:
            continue
        verdict, auditor = world.hold(case, wrong[case.run.stage])
        checks.spend(case)
        if verdict is not Verdict.SOUND:
            checks.spend(case)
        checks.close(case, verdict, auditor, now_s)
        shunned |= checks.all_shunned(now_s)
        if cheater in shunned:
            return request, bad_answers, len(shunned - lies - {cheater}), checks
    return None, bad_answers, len(shunned - lies - {cheater}), checks


def row(case: str, rate: float, *, liar: bool = False, runs: int = RUNS) -> Row:
    """One case over many seeds."""
    results = [trial(seed, rate, liar=liar) for seed in range(runs)]
    found = sorted(r[0] for r in results if r[0] is not None)
    bad = sorted(r[1] for r in results)
    shares = [r[3].rerun_token_layers / max(1, r[3].served_token_layers) for r in results]
    return Row(
        case,
        len(found),
        runs,
        found[len(found) // 2] if found else None,
        found[int(len(found) * 0.95)] if found else None,
        bad[len(bad) // 2] if rate else None,
        sum(r[2] for r in results),
        round(statistics.median(shares), 4),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the runs")
    parser.add_argument("--json", type=Path, help="keep the figures")
    asked = parser.parse_args()
    runs = RUNS // 4 if asked.quick else RUNS
    rows = [
        row("cheats on 100 % of requests", 1.0, runs=runs),
        row("cheats on 10 %", 0.1, runs=runs),
        row("cheats on 1 %", 0.01, runs=runs),
        row("cheats on 10 %, one auditor lies", 0.1, liar=True, runs=runs),
        row("nobody cheats, one auditor lies", 0.0, liar=True, runs=runs),
        row("nobody cheats", 0.0, runs=runs),
    ]
    head = f"{'case':<34} {'found':>7} {'requests p50':>13} {'p95':>7} {'bad answers':>12}"
    click.echo(f"{head} {'honest shunned':>15} {'run again':>10}")
    for line in rows:
        found = f"{line.found}/{line.runs}"
        click.echo(
            f"{line.case:<34} {found:>7} {line.requests_p50 or '–':>13} "
            f"{line.requests_p95 or '–':>7} {line.bad_answers_p50 or '–':>12} "
            f"{line.honest_shunned:>15} {line.rerun_share:>10.2%}"
        )
    if asked.json:
        asked.json.write_text(json.dumps([asdict(line) for line in rows], indent=1))


if __name__ == "__main__":
    main()
