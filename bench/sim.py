"""`./scripts/bench sim`: the simulator against the Helix artifact, row by row.

Prints the tables that docs/simulator-figures.md holds (`--docs` writes them there); the last one is
an overload, which the artifact does not survive. With `--scale`,
whole swarms of growing size instead, for docs/simulator-scale.md; with `--targets`, what our plans
serve, for docs/served-figures.md.
"""

import json
import platform
import resource
import sys
import time
from pathlib import Path

import click

from bench import overload
from bench.scale import HEAD as HEAD_OF_GROWTH
from bench.scale import Course, grow, keep
from helix_p2p.sim.helix.reference import RowResult, reference_rows, run_row
from helix_p2p.types import MOST_CELLS

DOCS = Path(__file__).parents[1] / "docs" / "simulator-figures.md"
TARGETS_DOCS = DOCS.with_name("served-figures.md")
FEWEST_PEERS = 2
"""One cannot hold the model that is served."""


def _line(result: RowResult, cpu_s: float) -> str:
    said = result.reference
    tokens, prompt, decode = (f"{100 * error:+.1f} %" for error in result.errors)
    return (
        f"| {result.case} | {said['decode_tokens_per_s']:.1f} | {result.decode_tokens_per_s:.1f} "
        f"| {tokens} | {said['prompt_s']:.2f} | {result.prompt_s:.2f} | {prompt} "
        f"| {said['decode_s']:.3f} | {result.decode_s:.3f} | {decode} "
        f"| {result.kv_peak_share:.2f} | {cpu_s:.1f} |"
    )


HEAD = """\
| row | tokens/s, artifact | ours | error | prompt s, artifact | ours | error \
| decode s, artifact | ours | error | KV peak | CPU s |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


def _summary(results: list[RowResult]) -> list[str]:
    errors = [result.errors for result in results]
    count = len(errors)
    mean = sum(abs(e[0]) for e in errors) / count
    return [
        f"- rows: {count}",
        f"- mean absolute error of throughput: {100 * mean:.2f} %",
        f"- rows within 8 % of throughput: {sum(abs(e[0]) <= 0.08 for e in errors)} of {count}",
        (
            f"- rows within 10 % of mean prompt latency: "
            f"{sum(abs(e[1]) <= 0.1 for e in errors)} of {count}"
        ),
        (
            f"- rows within 10 % of mean decode latency: "
            f"{sum(abs(e[2]) <= 0.1 for e in errors)} of {count}"
        ),
        (
            f"- peak memory of the process: "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
        ),
    ]


TARGETS_HEAD = """\
# What plans serve

Written by `./scripts/bench sim --targets --docs`, case by case: our plans beside Helix's published
placements, both in [Helix mode](simulator.md), with the same scheduler, admission and requests. The
planner's judge replays seed 7, in finals 71 and 72; rows are seeds 1, 2 and 3, lowest to highest in
brackets. Offline rows are 60 s of warm-up and 600 s, online rows 1800 s at Helix's arrival rate, as
in the artifact. Helix serves the 30B model by one pipeline for each kind of GPU, so its rows are by
kind here too.

Two honest objectives: the 30B rows ask for throughput alone and have no online row, so our plans
there are made with `--latency-weight 0`. Each 70B plan serves both of its rows: it is made with the
default, by which waiting counts, and its finals replay both loads
([what is chosen](planning.md#what-is-chosen)).

The second table of a case swaps one thing at a time, on seed 1: each placement under every
scheduler at equal admission for 200 s, and under native serving (chunked prefill, decode first,
local admission) for 180 s after one minute. Apart from that: Helix mode with our admission alone
(room for the whole answer, and what finds none waits), native serving with only as many clients as
Helix's rule has in flight, and native serving of prompts in one piece.

"""


def _targets(rows: str, *, docs: bool) -> None:
    from bench.targets import CASES, section  # late: torch-free, but native serving takes a second

    chosen = [case for case in CASES if rows in case.name]
    if not chosen:
        raise click.UsageError(f"no case holds {rows!r}")
    for case in chosen:
        lines: list[str] = []

        def told(line: str, lines: list[str] = lines, name: str = case.name) -> None:
            click.echo(line)
            lines.append(line)
            if docs:
                _write_section(name, lines)

        section(case, told)


def _write_section(name: str, lines: list[str]) -> None:
    """Put one case's lines in its place, so that what is measured so far is never lost."""
    kept = TARGETS_DOCS.read_text(encoding="utf-8") if TARGETS_DOCS.exists() else ""
    parts = {part.split("\n", 1)[0]: part for part in kept.split("\n## ")[1:]}
    parts[name] = "\n".join(lines).removeprefix("## ")
    body = "\n".join(f"## {parts[one].rstrip()}\n" for one in sorted(parts))
    TARGETS_DOCS.write_text(TARGETS_HEAD + body, encoding="utf-8")


@click.command()
@click.option("--rows", default="", help="Only rows whose name holds this.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Keep the figures here.")
@click.option("--docs", is_flag=True, help="Write the table into docs/.")
@click.option("--scale", is_flag=True, help="Whole swarms of growing size instead.")
@click.option(
    "--peers",
    multiple=True,
    type=click.IntRange(min=FEWEST_PEERS),
    help="With --scale: sizes; default 30 and 100.",
)
@click.option(
    "--cells",
    type=click.IntRange(1, MOST_CELLS),
    help="With --scale: into so many cells; default: as many as are advised.",
)
@click.option(
    "--part-into",
    type=click.IntRange(1, MOST_CELLS),
    help="With --scale: so many cells once it has settled; who has to move does so meanwhile.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    help="With --scale: virtual, after settling.",
)
@click.option(
    "--clients",
    type=click.IntRange(min=0),
    default=10,
    help="With --scale: who ask again and again; 0 for none.",
)
@click.option(
    "--cpu-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    help="With --scale: after which a size ends early.",
)
@click.option("--targets", is_flag=True, help="What our plans serve beside Helix's instead.")
def main(
    rows: str,
    json_path: str | None,
    docs: bool,
    scale: bool,
    peers: tuple[int, ...],
    cells: int | None,
    part_into: int | None,
    seconds: float,
    clients: int,
    cpu_minutes: float,
    targets: bool,
) -> None:
    """Replay the artifact's 43 runs and print each with its error; or grow whole swarms."""
    if targets:
        _targets(rows, docs=docs)
    elif scale:
        courses = [
            Course(size, seconds, clients, cells, part_into, 60 * cpu_minutes)
            for size in peers or (30, 100)
        ]
        _grow(courses, docs=docs)
    else:
        _replay(rows, json_path, docs=docs)


def _grow(courses: list[Course], *, docs: bool) -> None:
    click.echo(HEAD_OF_GROWTH)
    for course in courses:
        # What was reached is kept all along: the largest sizes take long.
        click.echo(grow(course, keep if docs else None).row())


def _replay(rows: str, json_path: str | None, *, docs: bool) -> None:
    chosen = [row for row in reference_rows() if rows in row["case"]]
    if not chosen and not any(rows in name for name in overload.ROWS):
        raise click.UsageError(f"no row holds {rows!r}")
    lines, results, kept = [HEAD], [], []
    if chosen:
        click.echo(HEAD)
    for row in chosen:
        began_s = time.process_time()
        result = run_row(row)
        spent_s = time.process_time() - began_s
        results.append(result)
        lines.append(_line(result, spent_s))
        click.echo(lines[-1])
        kept.append({"case": result.case, "errors": result.errors, "cpu_s": spent_s})
    over = _overload(rows)
    summary = _summary(results) if results else []
    if summary:
        click.echo("\n".join(["", *summary]))
    if json_path:
        Path(json_path).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if docs:
        about = f"CPython {platform.python_version()}, one core, {platform.machine()}"
        text = [
            "# Helix mode beside the artifact",
            "",
            f"`./scripts/bench sim --docs` ({about}).",
            "",
        ]
        DOCS.write_text("\n".join([*text, *summary, "", *lines, "", *over, ""]), encoding="utf-8")


def _overload(rows: str) -> list[str]:
    """The table of what is asked for more than it can serve; empty where no row is wanted."""
    names = [name for name in overload.ROWS if rows in name]
    if not names:
        return []
    lines = [
        "",
        "## More than can be served",
        "",
        f"{overload.CASE} online, by tokens/s asked for (at 1600 the artifact stops with",
        "`No next level node meets scheduling requirement`): what does not fit queues and is then",
        "refused with a typed error, and no stage's KV memory is ever exceeded.",
        "",
        overload.HEAD,
    ]
    click.echo("\n".join(lines))
    for name in names:
        row = overload.overload(name)
        lines.append(row.line())
        click.echo(lines[-1])
        if not row.holds:
            raise click.ClickException(f"{name} does not hold")
    return lines


if __name__ == "__main__":
    sys.exit(main())
