"""Draws plots as SVG text: one look for all of them, by the standard library alone.

The colours are set by a style sheet within the file, one for light and one for dark mode, and every
plot paints its own ground, so that it can be read on any page. Colours are of the set by Okabe and
Ito, which the colour-blind can tell apart, and each series has a marker of its own besides. The
same input makes the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 74, 56
LEGEND_LINE = 20
FONT = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"

STYLES = ("own", "c1", "c2", "c3", "c4", "c5", "c6", "c7")
"""Classes of series; `own` is loop_pool's."""
LIGHT = ("#c2410c", "#0072b2", "#007a5a", "#a1477f", "#6b7280", "#8a6d00", "#2a8fc4", "#374151")
DARK = ("#ff8a4c", "#56b4e9", "#2dc79a", "#e39ac6", "#a3abb8", "#f0c93a", "#8fd0f5", "#d1d5db")


def _style() -> str:
    def rules(ground: str, ink: str, soft: str, line: str, colours: Sequence[str]) -> str:
        return (
            f".ground{{fill:{ground}}}.ink{{fill:{ink}}}.soft{{fill:{soft}}}"
            f".grid{{stroke:{line}}}.axis{{stroke:{soft}}}"
            + "".join(
                f".{name}{{fill:{colour};stroke:{colour}}}"
                for name, colour in zip(STYLES, colours, strict=True)
            )
        )

    light = rules("#ffffff", "#1f2328", "#59636e", "#e3e6ea", LIGHT)
    dark = rules("#0d1117", "#e6edf3", "#9198a1", "#2b313a", DARK)
    return (
        f"text{{{FONT};font-size:13px;stroke:none}}.title{{font-size:16px;font-weight:600}}"
        ".small{font-size:12px}.own-name{font-weight:700}"
        f".line{{fill:none;stroke-width:2}}.own.line{{stroke-width:3.5}}{light}"
        f"@media(prefers-color-scheme:dark){{{dark}}}"
    )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def text(x: float, y: float, words: str, kind: str = "ink", anchor: str = "start") -> str:
    """A line of text."""
    place = f'x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'


Place = tuple[float, float]


def rule(start: Place, end: Place, kind: str = "grid", width: float = 1) -> str:
    """A straight line."""
    return (
        f'<line class="{kind}" x1="{_n(start[0])}" y1="{_n(start[1])}" '
        f'x2="{_n(end[0])}" y2="{_n(end[1])}" stroke-width="{_n(width)}"/>'
    )


_THIRD = 0.45
FORMS: dict[str, tuple[tuple[float, float], ...]] = {
    "own": (),
    "c1": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "c2": ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
    "c3": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "c4": ((0, 1.2), (1.1, -0.9), (-1.1, -0.9)),
    "c5": ((-1.4, -0.6), (1.4, -0.6), (1.4, 0.6), (-1.4, 0.6)),
    "c6": ((-0.6, -1.4), (0.6, -1.4), (0.6, 1.4), (-0.6, 1.4)),
    "c7": (
        *((-_THIRD, -1.3), (_THIRD, -1.3), (_THIRD, -_THIRD), (1.3, -_THIRD)),
        *((1.3, _THIRD), (_THIRD, _THIRD), (_THIRD, 1.3), (-_THIRD, 1.3)),
        *((-_THIRD, _THIRD), (-1.3, _THIRD), (-1.3, -_THIRD), (-_THIRD, -_THIRD)),
    ),
}
"""Corners of the sign of a style; none: a circle."""


def marker(x: float, y: float, style: str, size: float = 5) -> str:
    """The sign of a series."""
    if not FORMS[style]:
        return f'<circle class="{style}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(size)}"/>'
    reach = size * 0.9
    corners = " ".join(f"{_n(x + dx * reach)},{_n(y + dy * reach)}" for dx, dy in FORMS[style])
    return f'<polygon class="{style}" points="{corners}"/>'


def document(height: float, title: str, parts: Sequence[str]) -> str:
    """A whole file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {_n(height)}" '
        f'width="{WIDTH}" height="{_n(height)}" role="img" aria-label="{escape(title)}">\n'
        f"<style>{_style()}</style>\n"
        f'<rect class="ground" width="{WIDTH}" height="{_n(height)}" rx="6"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


# --- axes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Takes values of an axis to places, and names some of them."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        change: Callable[[float], float] = math.log10 if self.logarithmic else float
        low, high = change(self.low), change(self.high)
        share = (change(value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """The values that are named."""
        return log_ticks(self.low, self.high) if self.logarithmic else even_ticks(self.high)


def even_ticks(high: float) -> list[float]:
    """From 0 to `high`, 3 to 7 of them, in steps of 1, 2 or 5 times a power of ten."""
    step = 10 ** math.floor(math.log10(high))
    while high / step < 3:
        step /= 2 if high / step * 2 >= 3 else 5
    while high / step > 7:
        step *= 2
    return [index * step for index in range(math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten within the range; in a wide one the powers alone."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1,) if last - first > 4 else (1, 2, 5)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def format_tick(value: float) -> str:
    """As short as it can be."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g} {letter}"
    return f"{value:.3g}"


@dataclass(frozen=True)
class Point:
    """A median and the quartiles around it."""

    x: float
    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Line:
    """A series of points."""

    name: str
    style: str
    points: tuple[Point, ...]


def legend(names: Sequence[tuple[str, str]], y: float) -> tuple[list[str], float]:
    """The names of series with their markers, `own` first; gives also the height they take."""
    parts: list[str] = []
    x, row = float(LEFT), 0
    for name, style in sorted(names, key=lambda pair: pair[1] != "own"):
        width = 30 + 7.4 * len(name)
        if x + width > WIDTH - RIGHT and x > LEFT:
            x, row = float(LEFT), row + 1
        place = y + row * LEGEND_LINE
        parts.append(marker(x + 5, place - 4, style))
        parts.append(text(x + 16, place, name, "ink own-name" if style == "own" else "ink"))
        x += width
    return parts, (row + 1) * LEGEND_LINE


def panel(
    lines: Sequence[Line],
    place: tuple[float, float, float, float],
    title: str,
    *,
    logarithmic: bool = False,
) -> Iterator[str]:
    """Yield one panel of lines with quartile bars over counts; `title` names the y axis.

    `place`: left, top, right and bottom of the area of the data.
    """
    left, top, right, bottom = place
    numbers = sorted({point.x for line in lines for point in line.points})
    highest = max(point.upper for line in lines for point in line.points) * 1.08 or 1.0
    lowest = min(point.lower for line in lines for point in line.points) / 1.3
    # Each doubling takes as much room as the one before.
    along = Scale(numbers[0], numbers[-1], left + 24, right - 24, logarithmic=True)
    if len(numbers) == 1:
        along = Scale(numbers[0] / 2, numbers[0] * 2, left + 24, right - 24, logarithmic=True)
    upward = Scale(lowest if logarithmic else 0.0, highest, bottom, top, logarithmic)
    yield text(left, top - 10, title, "soft small")
    for tick in upward.ticks():
        yield rule((left, upward(tick)), (right, upward(tick)))
        yield text(left - 8, upward(tick) + 4, format_tick(tick), "soft small", "end")
    yield rule((left, bottom), (right, bottom), "axis")
    for number in numbers:
        yield text(along(number), bottom + 18, format_tick(number), "soft small", "middle")
    # loop_pool last, so that it lies above the others.
    for line in sorted(lines, key=lambda line: line.style == "own"):
        points = sorted(line.points, key=lambda point: point.x)
        path = " ".join(f"{_n(along(p.x))},{_n(upward(p.median))}" for p in points)
        yield f'<polyline class="{line.style} line" style="fill:none" points="{path}"/>'
        for point in points:
            x = along(point.x)
            yield rule((x, upward(point.lower)), (x, upward(point.upper)), line.style, 1.5)
            yield marker(x, upward(point.median), line.style)


def line_plot(
    title: str,
    subtitle: str,
    panels: Sequence[tuple[str, bool, Sequence[Line]]],
    x_title: str,
) -> str:
    """Panels side by side: title of the y axis, whether it is logarithmic, and the lines."""
    parts = [text(20, 30, title, "ink title"), text(20, 50, subtitle, "soft small")]
    names = dict.fromkeys((line.name, line.style) for _, _, lines in panels for line in lines)
    signs, taken = legend(list(names), 76)
    parts += signs
    top, bottom = TOP + taken + 34, TOP + taken + 34 + 230
    gap = 66
    width = (WIDTH - LEFT - RIGHT - gap * (len(panels) - 1)) / len(panels)
    for index, (y_title, logarithmic, lines) in enumerate(panels):
        left = LEFT + index * (width + gap)
        place = (left, top, left + width, bottom)
        parts += panel(lines, place, y_title, logarithmic=logarithmic)
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 38, x_title, "soft small", "middle"))
    return document(bottom + BOTTOM, title, parts)


@dataclass(frozen=True)
class Bar:
    """One row of a bar plot."""

    name: str
    style: str
    point: Point
    shown: str
    """The value in words, at the end of the bar."""


def bar_plot(
    title: str,
    subtitle: str,
    groups: Sequence[tuple[str, Sequence[Bar]]],
    x_title: str,
    *,
    logarithmic: bool = False,
) -> str:
    """Bars with quartiles in groups, the names to their left.

    Logarithmic: dots in place of bars, as a bar would need a zero.
    """
    parts = [text(20, 30, title, "ink title"), text(20, 50, subtitle, "soft small")]
    longest = max(len(bar.name) for _, bars in groups for bar in bars)
    left = 28 + 7.2 * longest
    highest = max(bar.point.upper for _, bars in groups for bar in bars) or 1.0
    lowest = min(bar.point.lower for _, bars in groups for bar in bars)
    room = 150
    along = Scale(
        lowest / 1.5 if logarithmic else 0.0, highest, left, WIDTH - RIGHT - room, logarithmic
    )
    y = float(TOP)
    rows: list[str] = []
    for name, bars in groups:
        if name:
            rows.append(text(20, y + 12, name, "ink small own-name"))
            y += 24
        for bar in bars:
            middle = y + 10
            own = bar.style == "own"
            rows.append(
                text(left - 10, middle + 4, bar.name, "ink own-name" if own else "ink", "end")
            )
            x = along(bar.point.median)
            if logarithmic:
                rows.append(rule((left, middle), (x, middle), "grid", 1.5))
                rows.append(marker(x, middle, bar.style, 6))
            else:
                rows.append(
                    f'<rect class="{bar.style}" x="{_n(left)}" y="{_n(y + 3)}" '
                    f'width="{_n(max(x - left, 1))}" height="14" stroke="none" '
                    f'fill-opacity="{1 if own else 0.55}"/>'
                )
            ends = along(bar.point.lower), along(bar.point.upper)
            rows.append(rule((ends[0], middle), (ends[1], middle), "axis", 2))
            rows.append(text(max(ends[1], x) + 10, middle + 4, bar.shown, "soft small"))
            y += 22
        y += 8
    for tick in along.ticks():
        parts.append(rule((along(tick), TOP - 6), (along(tick), y)))
        parts.append(text(along(tick), y + 18, format_tick(tick), "soft small", "middle"))
    parts += rows
    parts.append(text((left + WIDTH - RIGHT - room) / 2, y + 40, x_title, "soft small", "middle"))
    return document(y + BOTTOM, title, parts)


def dot_plot(
    title: str,
    subtitle: str,
    rows: Sequence[tuple[str, Sequence[tuple[str, str, Point]]]],
    x_title: str,
) -> str:
    """Rows of dots (name, style, ratio) on a logarithmic axis with a line at 1."""
    names = dict.fromkeys((name, style) for _, dots in rows for name, style, _ in dots)
    parts = [text(20, 30, title, "ink title"), text(20, 50, subtitle, "soft small")]
    signs, taken = legend(list(names), 76)
    parts += signs
    left = 28 + 7.0 * max(len(name) for name, _ in rows)
    points = [point for _, dots in rows for _, _, point in dots]
    low = min([0.5, *(point.lower for point in points)]) / 1.08
    high = max([2.0, *(point.upper for point in points)]) * 1.08
    along = Scale(low, high, left, WIDTH - RIGHT, logarithmic=True)
    top = TOP + taken + 16
    bottom = top + 24 * len(rows)
    for tick in along.ticks():
        x = along(tick)
        parts.append(rule((x, top - 8), (x, bottom), "axis" if tick == 1 else "grid"))
        parts.append(text(x, bottom + 18, format_tick(tick), "soft small", "middle"))
    for index, (name, dots) in enumerate(rows):
        y = top + 24 * index + 10
        parts.append(text(left - 10, y + 4, name, "ink small", "end"))
        parts.append(rule((left, y), (WIDTH - RIGHT, y)))
        for _, style, point in sorted(dots, key=lambda dot: dot[1] == "own"):
            parts.append(rule((along(point.lower), y), (along(point.upper), y), style, 2))
            parts.append(marker(along(point.median), y, style, 6 if style == "own" else 4.5))
    parts.append(text((left + WIDTH - RIGHT) / 2, bottom + 40, x_title, "soft small", "middle"))
    return document(bottom + BOTTOM, title, parts)
