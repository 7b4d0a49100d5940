"""`./scripts/bench sim`: the simulator against the Helix artifact, row by row.

Prints the table that docs/simulator-figures.md holds (`--docs` writes it there). With `--scale`,
whole swarms of growing size instead, for docs/simulator-scale.md.
"""

import json
import platform
import resource
import sys
import time
from pathlib import Path

import click

from bench.scale import HEAD as HEAD_OF_GROWTH
from bench.scale import grow
from helix_p2p.sim.helix.reference import RowResult, reference_rows, run_row

DOCS = Path(__file__).parents[1] / "docs" / "simulator-figures.md"
GROWTH_DOCS = DOCS.with_name("simulator-scale.md")


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


@click.command()
@click.option("--rows", default="", help="Only rows whose name holds this.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Keep the figures here.")
@click.option("--docs", is_flag=True, help="Write the table into docs/.")
@click.option("--scale", is_flag=True, help="Whole swarms of growing size instead.")
@click.option("--peers", multiple=True, type=int, help="With --scale: sizes; default 30 and 100.")
@click.option("--seconds", default=120.0, help="With --scale: virtual, after settling.")
@click.option("--clients", default=10, help="With --scale: who ask again and again; 0 for none.")
def main(
    rows: str,
    json_path: str | None,
    docs: bool,
    scale: bool,
    peers: tuple[int, ...],
    seconds: float,
    clients: int,
) -> None:
    """Replay the artifact's 43 runs and print each with its error; or grow whole swarms."""
    if scale:
        _grow(peers or (30, 100), seconds, clients, docs=docs)
    else:
        _replay(rows, json_path, docs=docs)


def _grow(sizes: tuple[int, ...], seconds: float, clients: int, *, docs: bool) -> None:
    lines = [HEAD_OF_GROWTH]
    click.echo(HEAD_OF_GROWTH)
    for size in sizes:
        lines.append(grow(size, seconds, clients).row())
        click.echo(lines[-1])
    if docs:
        said = [f"--peers {size}" for size in sizes]
        command = f"./scripts/bench sim --scale {' '.join(said)} --seconds {seconds:g}"
        about = f"CPython {platform.python_version()}, one core, {platform.machine()}"
        head = ["# Swarms of growing size", "", f"`{command} --clients {clients}` ({about}).", ""]
        GROWTH_DOCS.write_text("\n".join([*head, *lines, ""]), encoding="utf-8")


def _replay(rows: str, json_path: str | None, *, docs: bool) -> None:
    lines, results, kept = [HEAD], [], []
    click.echo(HEAD)
    for row in reference_rows():
        if rows not in row["case"]:
            continue
        began_s = time.process_time()
        result = run_row(row)
        spent_s = time.process_time() - began_s
        results.append(result)
        lines.append(_line(result, spent_s))
        click.echo(lines[-1])
        kept.append({"case": result.case, "errors": result.errors, "cpu_s": spent_s})
    if not results:
        raise click.ClickException(f"no row holds {rows!r}")
    summary = _summary(results)
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
        DOCS.write_text("\n".join([*text, *summary, "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
