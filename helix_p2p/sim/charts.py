"""Charts as plain SVG: bars with spread, curves, a placement map, planned against measured load.

Always: pure text out of numbers, no script, no font or file from elsewhere; colours follow the
reader's light or dark setting (`STYLE`); every mark has a tooltip; nothing is drawn of no data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10

WIDTH, HEIGHT = 560.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 14.0, 34.0, 46.0
LEGEND_ROW = 16.0
SERIES = ("#3b7dd8", "#c2792c", "#2a9d72", "#8a5cc2", "#c4568a", "#5b8a99", "#8c7a3d", "#6670c9")

STYLE = """
svg { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
.ink { fill: #1d2430; } .faint { fill: #667085; } .grid { stroke: #e3e7ee; }
.whisker { stroke: #1d2430; } .diagonal { stroke: #98a2b3; stroke-dasharray: 5 4; }
@media (prefers-color-scheme: dark) {
.ink { fill: #e6e9ef; } .faint { fill: #98a2b3; } .grid { stroke: #2a313c; }
.whisker { stroke: #e6e9ef; } }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: mean, and the least and most over seeds."""

    group: str
    series: str
    mean: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One line through points (x, y).

    Attributes:
        name: Of what it shows; curves of one name share a colour and a place in the legend.
        points: From left to right.
        dashed: Drawn so, beside a solid one of the same name.
        said: What its tooltip says, if not the name.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False
    said: str = ""


def bars(title: str, unit: str, data: Sequence[Bar]) -> str:
    """Groups of bars with whiskers from the least to the most."""
    data = [bar for bar in data if isfinite(bar.mean)]
    if not data:
        return ""
    groups = list(dict.fromkeys(bar.group for bar in data))
    series = list(dict.fromkeys(bar.series for bar in data))
    width = max(WIDTH, LEFT + RIGHT + len(groups) * (26.0 * len(series) + 24.0))
    top = 1.1 * max(bar.most for bar in data) or 1.0  # room for the figures above the bars
    scale = _Scale(width, top)
    each = (width - LEFT - RIGHT) / len(groups)
    one = min(44.0, (each - 20.0) / len(series))
    out = [*scale.grid(unit)]
    for bar in data:
        middle = LEFT + each * (groups.index(bar.group) + 0.5)
        x = middle + one * (series.index(bar.series) - len(series) / 2)
        y = scale.y(bar.mean)
        spread = f", {bar.least:.3g}–{bar.most:.3g} over seeds" if bar.most > bar.least else ""
        tip = f"{bar.group} · {bar.series}: {bar.mean:.4g} {unit}{spread}"
        colour = SERIES[series.index(bar.series) % len(SERIES)]
        out.append(
            f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{one - 2:.1f}" '
            f'height="{max(0.5, scale.base - y):.1f}" fill="{colour}" rx="2">'
            f"<title>{escape(tip)}</title></rect>"
        )
        if bar.most > bar.least:
            out.append(
                f'<line class="whisker" x1="{x + one / 2:.1f}" x2="{x + one / 2:.1f}" '
                f'y1="{scale.y(bar.least):.1f}" y2="{scale.y(bar.most):.1f}"/>'
            )
        if one >= 26:
            out.append(_text(x + one / 2, scale.y(bar.most) - 4, brief(bar.mean), "ink", 10))
    for number, group in enumerate(groups):
        out.append(_text(LEFT + each * (number + 0.5), scale.base + 16, _short(group), "ink"))
    return _svg(title, width, HEIGHT, out, _numbered(series))


def brief(value: float) -> str:
    """Three digits, zeros at the end too: beside 0.89 stands 1.00 and not 1."""
    for least, digits in ((99.95, 0), (9.995, 1), (0.0995, 2)):
        if value >= least:
            return f"{value:.{digits}f}"
    return f"{value:.2g}"


def curves(
    title: str, x_unit: str, y_unit: str, data: Sequence[Curve], at_least: float = 0.0
) -> str:
    """Lines over a common scale, which reaches `at_least` so high."""
    named = _numbered(list(dict.fromkeys(curve.name for curve in data)))
    data = [curve for curve in data if curve.points]
    if not data:
        return ""
    right = max(x for curve in data for x, _ in curve.points) or 1.0
    top = max(at_least, *(y for curve in data for _, y in curve.points)) or 1.0
    scale = _Scale(WIDTH, top)
    out = [*scale.grid(y_unit)]

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / right

    out += [
        _text(across(tick), scale.base + 16, f"{tick:.4g}", "faint", 11) for tick in _ticks(right)
    ]
    out.append(_text((LEFT + WIDTH) / 2, scale.base + 32, x_unit, "faint", 11))
    for curve in data:
        path = " ".join(f"{across(x):.1f},{scale.y(y):.1f}" for x, y in curve.points)
        dashes = ' stroke-dasharray="4 3"' if curve.dashed else ""
        out.append(
            f'<polyline points="{path}" fill="none" '
            f'stroke="{SERIES[named[curve.name] % len(SERIES)]}" stroke-width="1.8"{dashes}>'
            f"<title>{escape(curve.said or curve.name)}</title></polyline>"
        )
    drawn = {curve.name for curve in data}
    shown = {name: colour for name, colour in named.items() if name in drawn}
    return _svg(title, WIDTH, HEIGHT, out, shown)


def scatter(
    title: str, x_unit: str, y_unit: str, points: Sequence[tuple[str, float, float]]
) -> str:
    """Points (name, x, y) against the diagonal through their common scale."""
    if not points:
        return ""
    right = 1.04 * max(x for _, x, _ in points) or 1.0  # the outermost point stands free
    top = 1.04 * max(y for _, _, y in points) or 1.0
    scale = _Scale(WIDTH, top)
    out = [*scale.grid(y_unit)]

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / right

    total_x, total_y = sum(p[1] for p in points), sum(p[2] for p in points)
    if total_x > 0:
        slope = min(total_y / total_x, top / right)
        out.append(
            f'<line class="diagonal" x1="{across(0):.1f}" y1="{scale.y(0):.1f}" '
            f'x2="{across(right):.1f}" y2="{scale.y(slope * right):.1f}">'
            "<title>load in proportion to flow</title></line>"
        )
    out += [
        _text(across(tick), scale.base + 16, f"{tick:.4g}", "faint", 11) for tick in _ticks(right)
    ]
    out.append(_text((LEFT + WIDTH) / 2, scale.base + 32, x_unit, "faint", 11))
    for name, x, y in points:
        out.append(
            f'<circle cx="{across(x):.1f}" cy="{scale.y(y):.1f}" r="4" fill="{SERIES[0]}" '
            f'fill-opacity=".7"><title>{escape(f"{name}: {x:.1f} planned, {y:.1f} measured")}'
            "</title></circle>"
        )
    return _svg(title, WIDTH, HEIGHT, out, {})


def placement_map(
    title: str, layers: int, held: Mapping[str, tuple[int, int]], kinds: Mapping[str, str]
) -> str:
    """Layers across, peers down; a bar is what a peer holds."""
    if not held:
        return ""
    order = sorted(held, key=lambda peer: (*held[peer], peer))
    row = max(5.0, min(15.0, 520.0 / len(order)))
    height = TOP + row * len(order) + BOTTOM
    names = list(dict.fromkeys(kinds.get(peer, "") for peer in sorted(held)))

    def across(layer: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * layer / layers

    out = []
    for tick in _ticks(float(layers)):
        x = across(tick)
        out.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM:.1f}"/>'
        )
        out.append(_text(x, height - BOTTOM + 16, f"{tick:.0f}", "faint", 11))
    for number, peer in enumerate(order):
        start, end = held[peer]
        y = TOP + row * number
        colour = SERIES[names.index(kinds.get(peer, "")) % len(SERIES)]
        tip = f"{peer}: layers {start} to {end}"
        out.append(
            f'<rect x="{across(start):.1f}" y="{y + 0.5:.1f}" height="{row - 1:.1f}" '
            f'width="{max(1.0, across(end) - across(start) - 1):.1f}" fill="{colour}" rx="1.5">'
            f"<title>{escape(tip)}</title></rect>"
        )
        if row >= 9:
            out.append(_text(LEFT - 5, y + row - 3, _short(peer, 9), "faint", 10, "end"))
    out.append(_text((LEFT + WIDTH) / 2, height - BOTTOM + 32, "layer", "faint", 11))
    return _svg(title, WIDTH, height, out, _numbered([name or "peer" for name in names]))


class _Scale:
    """The vertical axis from 0 to a round number above the data."""

    def __init__(self, width: float, top: float) -> None:
        self.width = width
        self.base = HEIGHT - BOTTOM
        self._ticks = _ticks(top)
        self._top = max(top * 1.04, self._ticks[-1])

    def y(self, value: float) -> float:
        return self.base - (self.base - TOP) * value / self._top

    def grid(self, unit: str) -> list[str]:
        out = []
        for tick in self._ticks:
            y = self.y(tick)
            out.append(
                f'<line class="grid" x1="{LEFT}" x2="{self.width - RIGHT}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            out.append(_text(LEFT - 6, y + 4, f"{tick:.4g}", "faint", 11, "end"))
        return [*out, _text(6, TOP - 8, unit, "faint", 11, "start")]


def _ticks(top: float) -> list[float]:
    """0 and up to six round steps, none above `top`."""
    rough = top / 5
    size = 10.0 ** floor(log10(rough)) if rough > 0 else 1.0
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough * 0.999)
    return [step * n for n in range(int(top / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, style: str, size: int = 12, anchor: str = "middle") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" font-size="{size}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _legend(entries: Mapping[str, int], width: float) -> tuple[str, float]:
    """Names with their colours, right-aligned, in as many rows as they need.

    Args:
        entries: Colour by name.
        width: Of the chart.

    Returns:
        The marks, and how much further down the chart below has to begin.
    """
    if len(entries) < 2:
        return "", 0.0
    rows: list[list[tuple[str, int, float]]] = [[]]
    left = room = width - RIGHT - LEFT
    for full, colour in entries.items():
        name = _short(full, 26)
        wide = 7.0 * len(name) + 22
        if wide > left and rows[-1]:
            rows.append([])
            left = room
        rows[-1].append((name, colour, wide))
        left -= wide
    out = []
    for number, row in enumerate(rows):
        x = width - RIGHT - sum(wide for _, _, wide in row)
        y = TOP - 9 + LEGEND_ROW * number
        for name, colour, wide in row:
            out.append(
                f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" rx="2" '
                f'fill="{SERIES[colour % len(SERIES)]}"/>'
            )
            out.append(_text(x + 14, y, name, "ink", 11, "start"))
            x += wide
    return "".join(out), LEGEND_ROW * (len(rows) - 1)


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _svg(
    title: str, width: float, height: float, parts: Sequence[str], named: Mapping[str, int]
) -> str:
    legend, down = _legend(named, width)
    height += down
    body = (
        f'<g transform="translate(0 {down:.0f})">{"".join(parts)}</g>' if down else "".join(parts)
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg role="img" '
        f'aria-label="{escape(title, quote=True)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}">{body}{legend}</svg></figure>'
    )


def _numbered(names: Sequence[str]) -> dict[str, int]:
    """Colours in order."""
    return {name: number for number, name in enumerate(names)}
