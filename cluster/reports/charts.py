"""Small charts as SVG text that follow the page's colours, and images as data URLs. No script, nothing from outside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

import numpy as np

WIDTH, HEIGHT = 460, 240
CURVE_POINTS = 200  # of a training curve; more are averaged in groups
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 34
Line = tuple[str, Sequence[tuple[float, float]]]  # name, points


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``CURVE_POINTS`` points: means of neighbours, at the last one's step."""
    size = -(-len(points) // CURVE_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(p[1] for p in g) / len(g)) for g in groups]


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values, about four."""
    if high <= low:
        return [low]
    raw = (high - low) / 4
    power = 10 ** floor(log10(raw))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    return [i * step for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    percent: bool = False,
    styles: Sequence[tuple[int, bool]] | None = None,
    near: bool = False,
    log: bool = False,
    links: Sequence[Sequence[str]] | None = None,
) -> str:
    """Lines over a common x axis, with a legend; ``percent`` fixes the y axis to 0..1 shown as 0..100 %.

    Args:
        near: the y axis spans the values alone, so that values that lie close are told apart.
        log: the x axis is logarithmic.
        links: per line an address for each of its points, which then are marked.
        styles: colour number and whether dashed, per line; by default one colour each.
    """
    styles = styles or [(i, False) for i in range(len(lines))]
    if log:
        lines = [(name, [(log10(x), y) for x, y in line]) for name, line in lines]
    points = [p for _, line in lines for p in line]
    if not points:
        return f'<p class="quiet">{escape(title)}: nothing recorded.</p>'
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    y_low, y_high = _heights([p[1] for p in points], percent=percent, near=near)
    values = [log10(v) for v in _decades(x_low, x_high)] if log else ticks(x_low, x_high)
    if x_low == x_high:  # a single value of x stands in the middle
        x_low, x_high = x_low - 0.5, x_high + 0.5
    x_span, y_span = (x_high - x_low) or 1.0, (y_high - y_low) or 1.0

    def at(p: tuple[float, float]) -> str:
        x = LEFT + (p[0] - x_low) / x_span * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (p[1] - y_low) / y_span * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = [
        _level(at((x_low, v)).split(",")[1], f"{100 * v:.3g}%" if percent else f"{v:.4g}") for v in ticks(y_low, y_high)
    ]
    parts += [_tick(at((v, y_low)).split(",")[0], f"{10**v if log else v:.4g}") for v in values]
    classes = [f"c{colour % 6}" + (" dashed" if dashed else "") for colour, dashed in styles]
    for (_, line), kind in zip(lines, classes, strict=True):
        if len(line) == 1:
            parts.append(_mark(at(line[0]), kind))
        else:
            parts.append(f'<polyline class="line {kind}" points="{" ".join(at(p) for p in line)}"/>')
    for (_, line), kind, targets in zip(lines, classes, links or [], strict=bool(links)):
        parts += [_mark(at(point), kind, target) for point, target in zip(line, targets, strict=True)]
    described = "; ".join(
        f"{name}: {_value(line[0][1], percent)} to {_value(line[-1][1], percent)}" for name, line in lines if line
    )
    keys = zip(lines, classes, strict=True)
    legend = "".join(f'<span class="key {kind}">{escape(name)}</span>' for (name, _), kind in keys)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}. {escape(described)}">'
        f"{''.join(parts)}<text x='{(LEFT + WIDTH - RIGHT) / 2}' y='{HEIGHT - 4}' class='tick x'>{escape(x_label)}</text></svg>"
        f'<div class="legend">{legend}</div></figure>'
    )


def _mark(place: str, kind: str, target: str | None = None) -> str:
    """A point that leads somewhere, or does not."""
    x, y = place.split(",")
    circle = f'<circle class="{kind}" cx="{x}" cy="{y}" r="4"/>'
    return circle if target is None else f'<a href="{escape(target)}">{circle}</a>'


def _level(y: str, text: str) -> str:
    """A line across the chart, and what it stands for."""
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text x="{LEFT - 6}" y="{y}" class="tick y">{text}</text>'
    )


def _heights(values: Sequence[float], *, percent: bool, near: bool) -> tuple[float, float]:
    """Where the y axis begins and ends."""
    if near:
        return _around(min(values), max(values))
    return (0.0, 1.0) if percent else (min(0.0, *values), max(values))


def _tick(x: str, text: str) -> str:
    """A number under the x axis."""
    return f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" class="tick x">{text}</text>'


def _around(low: float, high: float) -> tuple[float, float]:
    """A range with some room on both sides."""
    room = 0.1 * (high - low) or 0.05 * abs(low) or 1.0
    return low - room, high + room


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two powers of ten; where none lies there, the ends."""
    found = [m * 10.0**k for k in range(floor(low) - 1, ceil(high) + 1) for m in (1, 2, 5)]
    return [v for v in found if low - 1e-9 <= log10(v) <= high + 1e-9] or [10**low, 10**high]


def _value(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} per cent" if percent else f"{value:.3g}"


def image(pixels: object, *, alt: str) -> str:
    """Rows of 8-bit pixels (1 or 3 channels) as an <img> with its own data."""
    from PIL import Image

    array = np.asarray(pixels, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def difference(clean: object, adversarial: object) -> tuple[list[object], float]:
    """The perturbation around middle grey, magnified to the full range, and the factor."""
    d = np.asarray(adversarial, dtype=float) - np.asarray(clean, dtype=float)
    factor = 127 / max(float(np.abs(d).max()), 1.0)
    return (128 + d * factor).clip(0, 255).astype(np.uint8).tolist(), factor


def heat(value: float) -> str:
    """Background of a matrix cell: stronger for higher values, readable in both themes."""
    return f"background:color-mix(in srgb, var(--accent) {round(70 * value)}%, transparent)"
