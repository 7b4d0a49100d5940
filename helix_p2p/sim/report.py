"""One self-contained HTML report of many runs: who serves how much, how fast, and why.

Always: nothing is loaded from elsewhere; every figure in it is also in the JSON and CSV that go
with it; each run's trace hash stands in the table, so that anyone can check a replay.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from helix_p2p.sim.charts import STYLE, Bar, Curve, bars, curves, placement_map, scatter
from helix_p2p.sim.helix.figures import EdgeLoad, mean
from helix_p2p.sim.runs import CDF_POINTS, RunResult

CLIENT = "clients"

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1240px;
  padding: 0 1rem; color: #1d2430; background: #fff; }}
h1 {{ font-size: 1.6rem; }} h2 {{ margin-top: 2.4rem; border-bottom: 1px solid #e3e7ee; }}
.row {{ display: flex; flex-wrap: wrap; gap: 12px; }}
figure {{ margin: 0; overflow-x: auto; }} figcaption {{ font-weight: 600; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }}
td, th {{ padding: 2px 10px; text-align: right; border-bottom: 1px solid #e3e7ee; }}
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) {{ text-align: left; }}
code {{ font-size: 11px; color: #667085; }} .wide {{ overflow-x: auto; margin-top: 1.2rem; }}
@media (prefers-color-scheme: dark) {{ body {{ color: #e6e9ef; background: #14181f; }}
  td, th, h2 {{ border-color: #2a313c; }} code {{ color: #98a2b3; }} }}
{style}</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def report_html(
    title: str, results: Sequence[RunResult], left_out: Mapping[str, str] | None = None
) -> str:
    """The report.

    Args:
        title: Of the page.
        results: Of all runs.
        left_out: Placements that could not be made, and why.
    """
    settings = list(dict.fromkeys(r.setting for r in results))
    parts = [_summary(results), _left_out(left_out or {}), _placements(results)]
    for setting in settings:
        chosen = [r for r in results if r.setting == setting]
        parts.append(f"<h2>{escape(setting)}</h2>")
        parts.append(_row(_overview(chosen)))
        for placement in dict.fromkeys(r.placement for r in chosen):
            of_it = [r for r in chosen if r.placement == placement]
            parts.append(f"<h3>{escape(placement)}</h3>")
            parts.append(_row(_details(of_it)))
        parts.append(_table(chosen))
    return _PAGE.format(title=escape(title), style=STYLE, body="\n".join(parts))


def results_json(title: str, results: Sequence[RunResult]) -> str:
    """Everything, for programs."""
    kept = [result.as_dict() for result in results]
    return json.dumps({"title": title, "runs": kept}, indent=1, default=str) + "\n"


COLUMNS = (
    "placement", "served_by", "setting", "seed", "decode_tokens_per_s", "mean_prompt_s",
    "mean_decode_s", "finished", "dropped", "refused", "longest_queue", "kv_peak_share",
    "max_flow_tokens_per_s", "events", "cpu_s", "trace_hash",
)  # fmt: skip


def results_csv(results: Iterable[RunResult]) -> str:
    """One line per run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        writer.writerow([getattr(result, column) for column in COLUMNS])
    return out.getvalue()


def _row(charts: Iterable[str]) -> str:
    return f'<div class="row">{"".join(charts)}</div>'


def _summary(results: Sequence[RunResult]) -> str:
    """One line per setting: what serves most, and how much more than the next placement."""
    lines = []
    for setting in dict.fromkeys(r.setting for r in results):
        found: dict[tuple[str, str], list[float]] = {}
        for r in results:
            if r.setting == setting:
                found.setdefault((r.placement, r.served_by), []).append(r.decode_tokens_per_s)
        order = sorted(found, key=lambda key: -mean(found[key]))
        best = order[0]
        said = f"{best[0]} under {best[1]}: {mean(found[best]):.1f} tokens/s"
        others = [key for key in order if key[0] != best[0]]
        if others and mean(found[others[0]]) > 0:
            ratio = mean(found[best]) / mean(found[others[0]])
            said += f", {ratio:.2f} times the best of another placement ({others[0][0]})"
        lines.append(f"<li><b>{escape(setting)}</b>: {escape(said)}</li>")
    seeds = len({r.seed for r in results})
    about = f"{len(results)} runs, {seeds} {'seed' if seeds == 1 else 'seeds'} each."
    if seeds > 1:
        about += " Bars are means, whiskers the least and the most; curves are of the first seed."
    return f"<p>{about}</p><ul>{''.join(lines)}</ul>" if results else ""


def _left_out(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    said = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in reasons.items())
    return f"<p>Placements that could not be made:</p><ul>{said}</ul>"


def _placements(results: Sequence[RunResult]) -> str:
    maps = []
    for name in dict.fromkeys(r.placement for r in results):
        one = next(r for r in results if r.placement == name)
        held = {str(h.peer): (h.layers.start, h.layers.end) for h in one.held}
        kinds = {peer: _kind(peer) for peer in held}
        flow = f", max flow {one.max_flow_tokens_per_s:.0f} tokens/s"
        maps.append(placement_map(name + flow, one.layers, held, kinds))
    return "<h2>Placements</h2>" + _row(maps)


def _kind(peer: str) -> str:
    """`04-l4` is an l4; names of another shape stand for themselves."""
    head, dash, rest = peer.partition("-")
    return rest if dash and head.isdigit() else ""


def _overview(results: Sequence[RunResult]) -> list[str]:
    return [
        bars("Tokens served per second", "tokens/s", _bars(results, "decode_tokens_per_s")),
        bars("Mean latency of a prompt", "s", _bars(results, "mean_prompt_s")),
        bars("Mean latency of a token", "s", _bars(results, "mean_decode_s")),
    ]


def _bars(results: Sequence[RunResult], figure: str) -> list[Bar]:
    found: dict[tuple[str, str], list[float]] = {}
    for result in results:
        value = getattr(result, figure)
        if value == value:  # not nan
            found.setdefault((result.placement, result.served_by), []).append(value)
    return [Bar(*key, mean(v), min(v), max(v)) for key, v in found.items()]


def _details(results: Sequence[RunResult]) -> list[str]:
    first = list({r.served_by: r for r in reversed(results)}.values())[::-1]
    charts = [
        curves("Prompt latency, share at most", "s", "%", _cdfs(first, "prompt_cdf_s")),
        curves("Token latency, share at most", "s", "%", _cdfs(first, "decode_cdf_s")),
        curves(
            "Fullest stage's KV over time",
            "s",
            "%",
            [
                Curve(r.served_by, tuple((s.at_s, 100 * s.kv_share) for s in r.samples))
                for r in first
            ],
            at_least=100.0,
        ),
        curves("Running, and waiting (dashed), over time", "s", "queries", _queues(first)),
    ]
    charts += [
        scatter(
            f"Planned flow and measured load per edge: {r.served_by}",
            "planned, tokens/s (dashed: load in proportion to flow)",
            "measured, tokens/s, prompts included",
            [(_edge(e), e.flow_tokens_per_s, e.measured_tokens_per_s) for e in r.edges],
        )
        for r in first
    ]
    return charts


def _queues(results: Sequence[RunResult]) -> list[Curve]:
    """Of each run, who is served and, where anybody was, who waits."""
    found = []
    for r in results:
        running = tuple((s.at_s, float(s.running)) for s in r.samples)
        waiting = tuple((s.at_s, float(s.waiting)) for s in r.samples)
        found.append(Curve(r.served_by, running, said=f"{r.served_by}, running"))
        if any(count for _, count in waiting):
            found.append(Curve(r.served_by, waiting, dashed=True, said=f"{r.served_by}, waiting"))
    return found


def _cdfs(results: Sequence[RunResult], figure: str) -> list[Curve]:
    return [
        Curve(
            r.served_by,
            tuple((x, 100.0 * n / CDF_POINTS) for n, x in enumerate(getattr(r, figure))),
        )
        for r in results
    ]


def _edge(edge: EdgeLoad) -> str:
    return f"{edge.source or CLIENT} → {edge.target or CLIENT}"


def _table(results: Sequence[RunResult]) -> str:
    head = (
        "placement", "served by", "seed", "tokens/s", "prompt s", "p95", "token s", "p95",
        "finished", "dropped", "refused", "queue", "KV peak", "CPU s", "trace",
    )  # fmt: skip
    keys = dict.fromkeys((r.placement, r.served_by) for r in results)
    order = {key: number for number, key in enumerate(keys)}
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{cell}</td>"
            for cell in (
                escape(r.placement),
                escape(r.served_by),
                r.seed,
                f"{r.decode_tokens_per_s:.1f}",
                _figure(r.mean_prompt_s, ".2f"),
                _figure(r.prompt_percentiles_s[-1], ".2f"),
                _figure(r.mean_decode_s, ".3f"),
                _figure(r.decode_percentiles_s[-1], ".3f"),
                r.finished,
                r.dropped,
                r.refused,
                r.longest_queue,
                f"{100 * r.kv_peak_share:.0f} %",
                f"{r.cpu_s:.1f}",
                f"<code>{r.trace_hash[:12]}</code>",
            )
        )
        + "</tr>"
        for r in sorted(results, key=lambda r: order[r.placement, r.served_by])
    )
    titles = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="wide"><table><tr>{titles}</tr>{rows}</table></div>'


def _figure(value: float, shape: str) -> str:
    return format(value, shape) if value == value else "–"  # nan: nothing was measured
