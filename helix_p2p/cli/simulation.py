"""What `simulate` and `compare` share: progress while runs go on, and the table of what came out.

Always: progress goes to the console that is passed (stderr); the table has one line per run.
"""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from helix_p2p.sim.helix.figures import Figures
from helix_p2p.sim.helix.setup import HelixSetup
from helix_p2p.sim.kept import KeptRuns
from helix_p2p.sim.runs import Job, RunResult, run_all, run_job
from helix_p2p.sim.scenario import Scenario

PIPED_WIDTH = 160


def run_with_progress(
    scenario: Scenario, setup: HelixSetup, job: Job, console: Console
) -> RunResult:
    """One run, with its figures as they come."""
    with _progress(console) as progress:
        task = progress.add_task(scenario.name, total=1.0, figures="")

        def watch(done_s: float, in_all_s: float, figures: Figures) -> None:
            progress.update(task, completed=done_s / in_all_s, figures=_live(done_s, figures))

        result = run_job(scenario, setup, job, watch)
        progress.update(task, completed=1.0)
    return result


def run_side_by_side(
    scenario: Scenario,
    setups: Mapping[str, HelixSetup],
    jobs: Sequence[Job],
    console: Console,
    *,
    processes: int,
    dask_address: str | None,
    kept: KeptRuns,
) -> list[RunResult]:
    """All runs, with how many are done; what is kept already is not done again."""
    results = {job: done for job in jobs if (done := kept.find(job)) is not None}
    left = [job for job in jobs if job not in results]
    with _progress(console) as progress:
        task = progress.add_task(scenario.name, total=len(jobs), completed=len(results), figures="")
        runs = run_all(scenario, dict(setups), left, processes=processes, dask_address=dask_address)
        for job, result in zip(left, runs, strict=True):
            results[job] = result
            kept.keep(job, result)
            said = f"{result.placement}, {result.served_by}: {result.decode_tokens_per_s:.1f} tok/s"
            progress.update(task, advance=1, figures=said)
    return [results[job] for job in jobs]


def show(results: Sequence[RunResult], console: Console) -> None:
    """A table, one line per run."""
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    table = Table(box=None, pad_edge=False)
    for name in ("placement", "served by", "setting", "seed"):
        table.add_column(name, no_wrap=True)
    for name in ("tokens/s", "prompt s", "token s", "finished", "dropped", "refused", "KV peak"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in results:
        table.add_row(
            r.placement,
            r.served_by,
            r.setting,
            str(r.seed),
            f"{r.decode_tokens_per_s:.1f}",
            f"{r.mean_prompt_s:.2f}",
            f"{r.mean_decode_s:.3f}",
            str(r.finished),
            str(r.dropped),
            str(r.refused),
            f"{100 * r.kv_peak_share:.0f} %",
        )
    console.print(table)
    if len(results) == 1:
        console.print(f"trace {results[0].trace_hash}", highlight=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
    )


def _live(done_s: float, figures: Figures) -> str:
    kv = f", KV {100 * figures.samples[-1].kv_share:.0f} %" if figures.samples else ""
    running = f", {figures.samples[-1].running} running" if figures.samples else ""
    return f"{done_s:.0f} s{running}{kv}, {figures.finished} finished"
