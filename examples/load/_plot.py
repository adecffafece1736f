"""Plots of the load tests: SVG for a browser, one line of blocks for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
LIMIT_COLOUR = "#dc2626"
WIDTH = 880
LEFT, RIGHT, TOP = 76, 24, 78
PANEL, GAP, BOTTOM = 220, 58, 56
"""Heights of the drawing of a panel, between two of them, and below the last; in pixels."""


@dataclass(frozen=True)
class Series:
    """A line: its name and its points (x, y) in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        """Leave out the points at which nothing was measured."""
        object.__setattr__(self, "points", [p for p in self.points if math.isfinite(p[1])])


@dataclass(frozen=True)
class Panel:
    """Axes of their own under a title which names the unit."""

    title: str
    series: Sequence[Series]
    limit: float | None = None
    """A line across, which should not be passed."""
    logarithmic: bool = False


@dataclass(frozen=True)
class Plot:
    """Panels above each other, which share the x axis."""

    title: str
    x_label: str
    panels: Sequence[Panel]
    shaded: Sequence[tuple[float, float, str]] = field(default=())
    """Ranges of x in which something was different, and what."""


def sparkline(values: Sequence[float], width: int = 48) -> str:
    """Draw values with one block for each, or for the highest of several."""
    if not values:
        return ""
    count = min(width, len(values))
    cuts = [round(number * len(values) / count) for number in range(count + 1)]
    heights = [max(values[low:high]) for low, high in pairwise(cuts)]
    low, span = min(heights), max(heights) - min(heights)
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[round((height - low) / span * top) if span else 0] for height in heights)


def ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Choose round values that reach from `low` to `high` or beyond."""
    if logarithmic:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return [10.0**power for power in range(first, max(last, first + 1) + 1)]
    if high <= low:
        low, high = low - 1, low + 1
    rough = (high - low) / 4
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * m for m in (1, 2, 2.5, 5, 10) if magnitude * m >= rough)
    first = math.floor(low / step)
    return [step * number for number in range(first, max(first + 1, math.ceil(high / step)) + 1)]


def number_text(value: float) -> str:
    """Write a number of an axis."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def text(x: float, y: float, content: str, options: str = "") -> str:
    """Write text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {options}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, options: str) -> str:
    """Draw a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {options}/>'


def draw_panel(panel: Panel, plot: Plot, x: Scale, y0: float) -> Iterator[str]:
    """Draw one panel whose upper edge is at `y0`."""
    values = [value for series in panel.series for _, value in series.points]
    values += [] if panel.limit is None else [panel.limit]
    if panel.logarithmic:
        values = [max(value, 0.001) for value in values]
    low = min(values, default=1.0)
    if not panel.logarithmic and low > 0 and low < 0.75 * max(values, default=1.0):
        low = 0.0
    marks = ticks(low, max(values, default=1.0), panel.logarithmic)
    y = Scale(marks[0], marks[-1], y0 + PANEL, y0, panel.logarithmic)
    yield text(LEFT, y0 - 10, panel.title, 'font-weight="600"')
    for first, last, what in plot.shaded:
        begin, end = max(first, x.low), max(min(last, x.high), x.low)
        width = x(end) - x(begin)
        yield (
            f'<rect x="{x(begin):.1f}" y="{y0}" width="{width:.1f}" height="{PANEL}"'
            ' fill="#fef3c7"/>'
        )
        yield text(x(begin) + 6, y0 + 15, what, 'fill="#92400e"')
    for mark in marks:
        yield line(LEFT, y(mark), WIDTH - RIGHT, y(mark), 'stroke="#e5e7eb"')
        yield text(LEFT - 8, y(mark) + 4, number_text(mark), 'text-anchor="end"')
    if panel.limit is not None:
        at = y(panel.limit)
        yield line(LEFT, at, WIDTH - RIGHT, at, f'stroke="{LIMIT_COLOUR}" stroke-dasharray="6 4"')
    legend = float(WIDTH - RIGHT)
    names = [(series.name, COLOURS[n % 4]) for n, series in enumerate(panel.series)]
    names += [] if panel.limit is None else [("limit", LIMIT_COLOUR)]
    for name, colour in reversed(names):
        yield text(legend, y0 - 10, name, f'text-anchor="end" fill="{colour}"')
        legend -= 7.0 * len(name) + 18
    for series, (_, colour) in zip(panel.series, names, strict=False):
        points = [(x(each), y(value)) for each, value in series.points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        if len(points) <= 60:
            yield "".join(
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points
            )


def draw(plot: Plot, subtitle: str) -> str:
    """Draw the plot as an SVG document."""
    height = TOP + len(plot.panels) * (PANEL + GAP) - GAP + BOTTOM
    xs = [x for panel in plot.panels for series in panel.series for x, _ in series.points]
    low, high = min(xs, default=0.0), max(xs, default=1.0)
    if 0 < low < 0.75 * high:
        low = 0.0
    x = Scale(low, high if high > low else low + 1, LEFT, WIDTH - RIGHT)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" font-family="system-ui, sans-serif" font-size="12" fill="#374151">',
        f"<title>{escape(plot.title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        text(LEFT, 26, plot.title, 'font-size="17" font-weight="600" fill="#111827"'),
        text(LEFT, 44, subtitle, 'fill="#6b7280"'),
    ]
    for number, panel in enumerate(plot.panels):
        parts += draw_panel(panel, plot, x, TOP + number * (PANEL + GAP))
    bottom = height - BOTTOM
    for mark in ticks(x.low, x.high, False):
        if x.low <= mark <= x.high:
            parts.append(line(x(mark), bottom, x(mark), bottom + 5, 'stroke="#9ca3af"'))
            parts.append(text(x(mark), bottom + 19, number_text(mark), 'text-anchor="middle"'))
    parts.append(
        text((LEFT + WIDTH - RIGHT) / 2, bottom + 42, plot.x_label, 'text-anchor="middle"')
    )
    return "\n".join([*parts, "</svg>", ""])
