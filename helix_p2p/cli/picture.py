"""Draws a plan as one SVG: which peer holds which layers, the flow over the pipelines, the min cut.

The horizontal axis is the model, layer 0 on the left. A bar is a peer's range; it is filled as far
as the peer is used. A curve hands tokens from one peer to the next where its range ends, as thick
as the flow; clients are at both edges. Below stands what the holders of each layer carry together:
its lowest point is the flow, unless a link binds. Red is the min cut, dashed is the proven bound.

Always: pure text out of a placement, no library, no script, no font or file from elsewhere; light
and dark after the reader's setting; every mark has a tooltip.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.capacity import MTOKENS, capacities_of
from helix_p2p.planning.coverage import coverage, layout_of
from helix_p2p.planning.marginal import PeerWorth, worths
from helix_p2p.planning.plan import Placement
from helix_p2p.types import LayerRange, PeerId

WIDTH = 1200.0
LEFT, RIGHT = 96.0, 96.0
HEAD = 84.0
PROFILE_HEIGHT = 130.0
ROW_LIMIT_PX = 1100.0
MOST_LABELLED = 90
THICKEST_PX = 12.0
_LETTER = 0.56
"""Mean width of a letter in font sizes."""

_KIND_COLOURS = (
    "#3b7dd8",
    "#2a9d72",
    "#c2792c",
    "#8a5cc2",
    "#c4568a",
    "#5b8a99",
    "#8c7a3d",
    "#6670c9",
    "#2aa5a5",
    "#a8484d",
    "#7f9a2f",
    "#b06fb8",
)

_STYLE = """
svg { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
.page { fill: #ffffff; } .ink { fill: #1d2430; } .faint { fill: #667085; }
.grid { stroke: #e3e7ee; } .edge { stroke: #51617a; fill: none; stroke-opacity: .34; }
.edge:hover { stroke-opacity: .9; } .area { fill: #51617a; fill-opacity: .16; }
.line { stroke: #51617a; fill: none; } .cut { stroke: #d62f3a; fill: none; }
.cuttext { fill: #c4202c; } .bound { stroke: #1d2430; stroke-dasharray: 6 4; }
@media (prefers-color-scheme: dark) {
.page { fill: #14181f; } .ink { fill: #e6e9ef; } .faint { fill: #98a2b3; }
.grid { stroke: #2a313c; }
.edge { stroke: #b4c0d4; } .area { fill: #b4c0d4; } .line { stroke: #b4c0d4; }
.cuttext { fill: #ff6b74; } .bound { stroke: #e6e9ef; } }
"""


@dataclass(frozen=True, slots=True)
class _Bar:
    worth: PeerWorth
    layers: LayerRange
    kind: str
    y: float
    height: float

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def picture_svg(snapshot: Snapshot, placement: Placement, title: str) -> str:
    """The plan as an SVG document.

    Args:
        snapshot: The swarm.
        placement: Over its peers.
        title: What was planned.
    """
    bars, bottom = _bars(snapshot, placement)
    kinds = sorted({bar.kind for bar in bars.values()})
    colour = {kind: _KIND_COLOURS[n % len(_KIND_COLOURS)] for n, kind in enumerate(kinds)}
    height = bottom + 46 + PROFILE_HEIGHT + 56
    size = f'width="{WIDTH:.0f}" height="{height:.0f}"'
    box = f'viewBox="0 0 {WIDTH:.0f} {height:.0f}" {size}'
    name = escape(title)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{name}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" {size}/>',
        *_heading(snapshot, placement, title, colour),
        *_grid(snapshot, bottom + 46 + PROFILE_HEIGHT),
        *_edges(snapshot, placement, bars),
        *(line for bar in bars.values() for line in _bar(snapshot, bar, colour, len(bars))),
        *_profile(snapshot, placement, bottom + 46),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def picture_html(snapshot: Snapshot, placement: Placement, title: str) -> str:
    """The same as a page, with a table of the peers below."""
    rows = "\n".join(_table_row(snapshot, worth) for worth in worths(snapshot, placement))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; max-width: 1240px; padding: 12px; background: #fff; color: #1d2430;
  font: 14px/1.5 system-ui, sans-serif; }}
svg {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: 3px 10px; border-bottom: 1px solid #8885; }}
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) {{ text-align: left; }}
.cut {{ color: #c4202c; font-weight: 600; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #14181f; color: #e6e9ef; }}
  .cut {{ color: #ff6b74; }} }}
</style></head><body>
{picture_svg(snapshot, placement, title)}
<table><thead><tr><th>peer</th><th>kind</th><th>layers</th><th>carries</th><th>could carry</th>
<th>lost without it</th><th>held back by</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""


def _table_row(snapshot: Snapshot, worth: PeerWorth) -> str:
    kind = next(p.kind for p in snapshot.peers if p.peer == worth.peer)
    mark = ' class="cut"' if worth.in_cut else ""
    cells = (
        escape(worth.peer),
        escape(kind),
        str(worth.layers or "none"),
        f"{worth.flow_mtokens_per_s / MTOKENS:,.1f}",
        f"{worth.capacity_mtokens_per_s / MTOKENS:,.1f}",
        f"{worth.marginal_mtokens_per_s / MTOKENS:,.1f}",
        str(worth.limit or ""),
    )
    return f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _x(snapshot: Snapshot, layer: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * layer / snapshot.model.layers


def _bars(snapshot: Snapshot, placement: Placement) -> tuple[Mapping[PeerId, _Bar], float]:
    """Where each peer's bar stands: each range in the first lane that is free there."""
    found = {w.peer: w for w in worths(snapshot, placement) if w.layers is not None}
    kinds = {profile.peer: profile.kind for profile in snapshot.peers}
    ordered = sorted(
        (a for a in placement.assignments if a.peer in found),
        key=lambda a: (a.layers.start, -a.layers.end, a.peer),
    )
    lanes: list[int] = []
    lane_of: dict[PeerId, int] = {}
    for assignment in ordered:
        # Ranges that join stand in different lanes, so that the curve between them is seen.
        free = [n for n, end in enumerate(lanes) if end < assignment.layers.start]
        lane = free[0] if free else len(lanes)
        if not free:
            lanes.append(0)
        lanes[lane] = assignment.layers.end
        lane_of[assignment.peer] = lane
    pitch = max(7.0, min(38.0, ROW_LIMIT_PX / max(1, len(lanes))))
    bars = {
        a.peer: _Bar(
            found[a.peer],
            a.layers,
            kinds.get(a.peer, ""),
            HEAD + 30 + lane_of[a.peer] * pitch,
            pitch * (0.62 if pitch > 14 else 0.8),
        )
        for a in ordered
    }
    return bars, HEAD + 30 + max(1, len(lanes)) * pitch


def _heading(
    snapshot: Snapshot, placement: Placement, title: str, colour: Mapping[str, str]
) -> Iterable[str]:
    flow, bound = placement.value_mtokens_per_s / MTOKENS, placement.bound_mtokens_per_s / MTOKENS
    yield f'<text class="ink" x="24" y="34" font-size="20" font-weight="600">{escape(title)}</text>'
    proof = "proven optimal" if placement.gap < 5e-7 else f"gap {placement.gap:.1%}"
    said = (
        f"flow {flow:,.1f} tokens/s · bound {bound:,.1f} · {proof} · "
        f"{len(placement.assignments)} of {len(snapshot.peers)} peers · by {placement.solver}"
    )
    yield f'<text class="faint" x="24" y="58" font-size="13">{escape(said)}</text>'
    x = 24.0
    for kind, paint in colour.items():
        yield f'<rect x="{x:.1f}" y="72" width="11" height="11" rx="2" fill="{paint}"/>'
        name = kind[:28] or "peer"
        yield f'<text class="faint" x="{x + 16:.1f}" y="82" font-size="12">{escape(name)}</text>'
        x += 34 + 7 * len(name)
        if x > WIDTH - 260:
            break
    yield f'<path class="cut" stroke-width="2.5" d="M{x:.1f} 78h16"/>'
    yield f'<text class="faint" x="{x + 22:.1f}" y="82" font-size="12">min cut</text>'


def _grid(snapshot: Snapshot, bottom: float) -> Iterable[str]:
    layers = snapshot.model.layers
    step = next(n for n in (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 100, layers) if layers / n <= 16)
    marks = [*range(0, layers, step)]
    if layers - marks[-1] < step / 2:
        marks.pop()
    for layer in [*marks, layers]:
        x = _x(snapshot, layer)
        yield f'<path class="grid" d="M{x:.1f} {HEAD + 18:.1f}V{bottom:.1f}"/>'
        yield (
            f'<text class="faint" x="{x:.1f}" y="{bottom + 18:.1f}" font-size="11" '
            f'text-anchor="middle">{layer}</text>'
        )
    yield (
        f'<text class="faint" x="{WIDTH / 2:.0f}" y="{bottom + 38:.1f}" font-size="12" '
        f'text-anchor="middle">layer</text>'
    )


def _edges(snapshot: Snapshot, placement: Placement, bars: Mapping[PeerId, _Bar]) -> Iterable[str]:
    top = max((edge.mtokens_per_s for edge in placement.flows), default=1)
    cut = set(placement.min_cut.links)
    for edge in sorted(placement.flows, key=lambda edge: -edge.mtokens_per_s):
        wide = max(0.6, THICKEST_PX * edge.mtokens_per_s / top)
        source = bars[edge.source] if edge.source is not None else None
        target = bars[edge.target] if edge.target is not None else None
        y1 = source.middle if source is not None else target.middle if target is not None else 0.0
        y2 = target.middle if target is not None else y1
        x1 = _x(snapshot, source.layers.end) if source is not None else LEFT - 70
        # A stage begins where the one before it ends, which may be inside the range.
        x2 = x1 if source is not None else LEFT
        x2 = x2 if target is not None else WIDTH - RIGHT + 70
        bend = 10 + min(34.0, abs(y2 - y1) * 0.22) if x1 == x2 else 0.0
        path = (
            f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} "
            f"{x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
        )
        name = f"{edge.source or 'clients'} → {edge.target or 'clients'}"
        flow = f"{edge.mtokens_per_s / MTOKENS:,.1f} tokens/s"
        kind = "cut" if (edge.source, edge.target) in cut else "edge"
        yield (
            f'<path class="{kind}" stroke-width="{wide:.1f}" d="{path}">'
            f"<title>{escape(name)}: {flow}</title></path>"
        )


def _bar(snapshot: Snapshot, bar: _Bar, colour: Mapping[str, str], count: int) -> Iterable[str]:
    worth, x = bar.worth, _x(snapshot, bar.layers.start)
    width = _x(snapshot, bar.layers.end) - x
    used = worth.flow_mtokens_per_s / max(1, worth.capacity_mtokens_per_s)
    paint = colour[bar.kind]
    tip = (
        f"{worth.peer} ({bar.kind}) holds {bar.layers}: "
        f"carries {worth.flow_mtokens_per_s / MTOKENS:,.1f} of "
        f"{worth.capacity_mtokens_per_s / MTOKENS:,.1f} tokens/s; "
        f"{worth.marginal_mtokens_per_s / MTOKENS:,.1f} would be lost without it"
    )
    size = f'y="{bar.y:.1f}" height="{bar.height:.1f}" rx="3"'
    yield f"<g><title>{escape(tip)}</title>"
    yield f'<rect class="page" x="{x:.1f}" width="{width:.1f}" {size}/>'
    yield f'<rect x="{x:.1f}" width="{width:.1f}" {size} fill="{paint}" fill-opacity=".28"/>'
    full = f'width="{width * min(1.0, used):.1f}"'
    yield f'<rect x="{x:.1f}" {full} {size} fill="{paint}" fill-opacity=".8"/>'
    outline = 'class="cut" stroke-width="2.5"' if worth.in_cut else f'fill="none" stroke="{paint}"'
    yield f'<rect x="{x:.1f}" width="{width:.1f}" {size} {outline}/>'
    font, label = _fitting(str(worth.peer), width - 6, min(12.0, bar.height - 2))
    if count <= MOST_LABELLED and bar.height >= 10 and label:
        yield (
            f'<text class="ink" x="{x + 4:.1f}" y="{bar.middle + font * 0.36:.1f}" '
            f'font-size="{font:.1f}">{escape(label)}</text>'
        )
    yield "</g>"


def _fitting(name: str, width_px: float, font_px: float) -> tuple[float, str]:
    """Font size and text that fit: smaller before shorter; empty when not even that."""
    for size in (font_px, min(font_px, 10.0), min(font_px, 8.5)):
        if len(name) * size * _LETTER <= width_px:
            return size, name
    room = int(width_px / (min(font_px, 10.0) * _LETTER))
    return min(font_px, 10.0), f"{name[: room - 1]}…" if room >= 4 else ""


def _profile(snapshot: Snapshot, placement: Placement, top: float) -> Iterable[str]:
    """What the holders of each layer carry together, with flow, bound and cut."""
    table = capacities_of(snapshot)
    carried = coverage(table, layout_of(table, placement.assignments))
    value, bound = placement.value_mtokens_per_s, placement.bound_mtokens_per_s
    most = max(1.0, min(float(carried.max()), 2.5 * max(value, bound, 1)), float(bound))
    base = top + PROFILE_HEIGHT

    def y(amount: float) -> float:
        return base - (PROFILE_HEIGHT - 14) * min(1.0, amount / most)

    steps = [f"M{_x(snapshot, 0):.1f} {base:.1f}"]
    for layer, amount in enumerate(carried):
        at = y(float(amount))
        steps.append(f"L{_x(snapshot, layer):.1f} {at:.1f}H{_x(snapshot, layer + 1):.1f}")
    shape = "".join(steps)
    yield f'<path class="area" d="{shape}V{base:.1f}Z"/>'
    yield f'<path class="line" d="{shape}"/>'
    layer_cut = placement.min_cut.layer
    if layer_cut is not None:
        x1, x2 = _x(snapshot, layer_cut), _x(snapshot, layer_cut + 1)
        lowest = y(float(carried[layer_cut]))
        yield (
            f'<rect class="cut" stroke-width="2" x="{x1:.1f}" y="{lowest:.1f}" '
            f'width="{x2 - x1:.1f}" height="{base - lowest:.1f}">'
            f"<title>the holders of layer {layer_cut} are the min cut</title></rect>"
        )
    right = WIDTH - RIGHT
    yield f'<path class="cut" stroke-width="1.5" d="M{LEFT:.1f} {y(value):.1f}H{right:.1f}"/>'
    yield f'<path class="bound" d="M{LEFT:.1f} {y(bound):.1f}H{right:.1f}"/>'
    close = abs(y(value) - y(bound)) < 13
    yield _note(
        right + 6, y(value) + (9 if close else 4), "cuttext", f"flow {value / MTOKENS:,.0f}"
    )
    yield _note(right + 6, y(bound) - (4 if close else -4), "ink", f"bound {bound / MTOKENS:,.0f}")
    yield _note(24, top - 8, "faint", "tokens/s that the holders of each layer carry together")


def _note(x: float, y: float, kind: str, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" font-size="12">{escape(text)}</text>'
